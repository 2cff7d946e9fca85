"""Names become devices; what is not here is named together with what is."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NoReturn

import psutil
import pytest
import torch

from pieria.hardware import cpu, devices
from pieria.hardware.spec import Device, DeviceSpec, Quantity

SPEC = DeviceSpec("Some GPU", "Somebody", Quantity(2**30, "B", "a test"), frozenset({"float32"}))
GPUS = [Device(f"gpu:{i}", f"gpu:{i}", SPEC, ("torch",), "nccl", "fine") for i in range(2)]


class FakeKind:
    def __init__(self, found: Sequence[Device]) -> None:
        self.found = list(found)

    def present(self) -> list[Device]:
        return self.found

    def free_memory(self, index: int) -> Quantity:
        return Quantity(1000 + index, "B", "a test")

    def program(self, index: int) -> int:
        return 500 + index


class Broken(FakeKind):
    def present(self) -> NoReturn:
        raise RuntimeError("driver too old")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_KINDS", {"gpu": FakeKind(GPUS), "cpu": cpu})


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("name", "found"), [("auto", "gpu:0"), ("gpu", "gpu:0"), ("gpu:1", "gpu:1"), ("cpu", "cpu")]
)
def test_names(name: str, found: str) -> None:
    assert devices.find(name).name == found


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("name", ["gpu:2", "tpu", "", "cpu:1", "auto:0", "GPU"])
def test_a_device_that_is_not_here_is_refused(name: str) -> None:
    with pytest.raises(ValueError) as refused:
        devices.find(name)
    there = "there are: auto, gpu:0, gpu:1, cpu"
    assert str(refused.value) == f"device={name!r} is not here; {there}"


def test_without_a_gpu_auto_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_KINDS", {"gpu": FakeKind([]), "cpu": cpu})
    assert devices.find("auto").name == "cpu"


def test_a_broken_driver_is_in_the_way_of_its_own_users_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "_KINDS", {"gpu": Broken([]), "cpu": cpu})
    assert devices.find("cpu").name == "cpu"
    with pytest.raises(RuntimeError, match="driver too old"):
        devices.find("auto")


@pytest.mark.usefixtures("two_gpus")
def test_free_memory_is_asked_of_the_right_device() -> None:
    assert devices.free_memory(GPUS[1]).value == 1001
    assert devices.program(GPUS[1]) == 501


def test_a_processor_tells_what_this_process_has() -> None:
    assert devices.program(devices.find("cpu")) > 10 << 20


@pytest.mark.usefixtures("two_gpus")
def test_description() -> None:
    rows = dict(devices.describe(replace(GPUS[0], facts=(("wheels", "4"),))))
    assert rows["name"] == "Some GPU"
    assert rows["memory"] == "1 GiB (1000 B free)"
    assert rows["wheels"] == "4"
    assert rows["kernel backends"] == "torch"
    assert rows["state"] == "fine"
    assert "memory bandwidth" not in rows
    measured = replace(
        SPEC,
        bandwidth=Quantity(3e9, "B/s", "measured here"),
        flops={"float32": Quantity(4e9, "FLOP/s", "measured here")},
    )
    rows = dict(devices.describe(GPUS[0], measured))
    assert rows["memory bandwidth"] == "3 GB/s: measured here"
    assert rows["float32 peak"] == "4 GFLOP/s: measured here"


def test_zeros_take_memory_only_where_they_are_written() -> None:
    resident = psutil.Process().memory_info().rss
    made = devices.zeros(devices.find("cpu"), (1 << 10, 1 << 19), torch.float32)
    assert made.shape == (1 << 10, 1 << 19) and made.dtype == torch.float32
    assert not made[5].any() and not made[-1, -1]
    made[3] = 1
    assert psutil.Process().memory_info().rss - resident < 64 << 20
