"""The arithmetic of measuring, on a clock that moves by itself; and once for real."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pieria.clock import RealTime
from pieria.hardware import devices, measure
from pieria.hardware.spec import Quantity

MIB = 2**20


class Steady:
    """Each look at this clock takes the same time, and nothing else takes any."""

    def __init__(self, step: float) -> None:
        self.step = step
        self.looks = 0.0

    def now(self) -> float:
        self.looks += 1
        return self.looks * self.step

    def wall(self) -> float:
        return self.now()

    def sleep(self, seconds: float) -> None:
        raise AssertionError("measuring does not sleep")


CPU = devices.find("cpu")


@pytest.mark.parametrize(
    ("cache", "free", "size"),
    [
        (0, 2**40, 512 * MIB),
        (128 * MIB, 2**40, 512 * MIB),
        (260 * MIB, 2**40, 1040 * MIB),
        (260 * MIB, 400 * MIB, 100 * MIB),
    ],
)
def test_the_array_outgrows_the_cache_but_not_the_memory(cache: int, free: int, size: int) -> None:
    assert measure.array_bytes(cache, free) == size


def test_rates_are_work_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "free_memory", lambda device: Quantity(64 * MIB, "B", "a test"))
    monkeypatch.setattr(measure, "PEAK_SIZES", (16, 32, 64, 128))
    # A size takes 9 looks; 32 more must fit before the next, which is so for 32 and 64, not 128.
    step = measure.PEAK_SECONDS / 55
    found = measure.measure(CPU, Steady(step))
    assert found.bandwidth is not None
    assert found.bandwidth.value == pytest.approx(16 * MIB / step)
    assert found.bandwidth.source.startswith("measured here, reading 16 MiB by a product with")
    assert set(found.flops) == set(measure.DTYPES)
    for peak in found.flops.values():
        assert peak.value == pytest.approx(2 * 64**3 / step)
        assert peak.source == "measured here, 64 x 64 matrices"
    assert found.flops["int8"].unit == "OP/s"
    assert replace(found, bandwidth=None, flops={}) == CPU.spec


def test_memory_is_read_by_what_is_given_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "free_memory", lambda device: Quantity(64 * MIB, "B", "a test"))
    monkeypatch.setattr(measure, "PEAK_SIZES", (16,))
    clock = Steady(1.0)
    arrays: dict[int, set[int]] = {}

    def read(array: Tensor, streams: int) -> None:
        assert array.nbytes == 16 * MIB and bool((array == 1).all())
        arrays.setdefault(streams, set()).add(array.data_ptr())
        clock.looks -= 0.5 if streams == 4 else 0  # that way is the fastest

    found = measure.measure(CPU, clock, read)
    assert set(arrays) == {1, 2, 4, 8, 16}
    assert found.bandwidth is not None and "in 4 streams a core" in found.bandwidth.source


def test_what_torch_cannot_multiply_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(x: Tensor) -> Tensor:
        raise NotImplementedError("not on this device")

    monkeypatch.setattr(measure, "free_memory", lambda device: Quantity(64 * MIB, "B", "a test"))
    monkeypatch.setattr(measure, "_multiply_int8", refuse)
    found = measure.measure(CPU, Steady(1.0))
    assert set(found.flops) == {"float64", "float32", "bfloat16", "float16"}


def test_for_real(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rates are of the right magnitude for any machine, and the threads are put back."""
    monkeypatch.setattr(measure, "free_memory", lambda device: Quantity(256 * MIB, "B", "a test"))
    monkeypatch.setattr(measure, "PEAK_SIZES", (256,))
    before = torch.get_num_threads()
    found = measure.measure(CPU, RealTime())
    assert torch.get_num_threads() == before
    assert found.bandwidth is not None
    assert 1e8 < found.bandwidth.value < 1e13
    assert 1e8 < found.flops["float32"].value < 1e14
