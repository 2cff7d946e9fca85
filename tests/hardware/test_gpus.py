"""GPUs as torch would report them; none is needed."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pieria.hardware import cuda, musa
from pieria.hardware.gpu import NOT_RUN


def properties(major: int, minor: int, **more: int) -> Any:
    return SimpleNamespace(
        name="G",
        total_memory=80 * 2**30,
        major=major,
        minor=minor,
        multi_processor_count=60,
        **more,
    )


@pytest.mark.parametrize(
    ("capability", "more"),
    [
        ((6, 0), set()),
        ((7, 5), {"int8"}),
        ((8, 6), {"int8", "bfloat16"}),
        ((9, 0), {"int8", "bfloat16", "float8_e4m3fn", "float8_e5m2"}),
    ],
)
def test_native_dtypes_by_capability(capability: tuple[int, int], more: set[str]) -> None:
    found = cuda.device(0, properties(*capability), rocm=False)
    assert found.spec.native_dtypes == {"float64", "float32", "float16"} | more


def test_a_gpu_as_torch_reports_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda i: properties(9, 0, L2_cache_size=50 * 2**20)
    )
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda i: (70 * 2**30 + i, 80 * 2**30))
    first, second = cuda.present()
    assert (first.name, second.torch_device) == ("cuda:0", "cuda:1")
    assert (second.spec.vendor, second.distributed, second.state) == ("NVIDIA", "nccl", NOT_RUN)
    assert second.spec.memory.value == 80 * 2**30
    assert second.spec.cache is not None
    assert second.spec.cache.value == 50 * 2**20
    assert dict(second.facts) == {"compute capability": "9.0", "multiprocessors": "60"}
    assert cuda.free_memory(1).value == 70 * 2**30 + 1


def test_a_rocm_build_of_torch_means_amd() -> None:
    assert cuda.device(0, properties(9, 4), rocm=True).spec.vendor == "AMD"


def test_moore_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: 1,
        get_device_properties=lambda i: properties(3, 1),
        mem_get_info=lambda i: (5, 9),
    )
    monkeypatch.setattr(torch, "musa", backend, raising=False)
    (found,) = musa.present()
    assert (found.name, found.torch_device, found.distributed) == ("musa:0", "musa:0", "mccl")
    assert (found.spec.vendor, found.state) == ("Moore Threads", NOT_RUN)
    assert found.spec.cache is None
    assert {"float8_e4m3fn", "int8", "bfloat16"} <= found.spec.native_dtypes
    assert "float8_e4m3fn" not in musa.device(0, properties(2, 2)).spec.native_dtypes
    assert musa.free_memory(0).value == 5


def test_without_its_package_or_its_driver_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch, "musa", raising=False)
    assert musa.present() == []
    monkeypatch.setattr(torch, "musa", SimpleNamespace(is_available=lambda: False), raising=False)
    assert musa.present() == []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cuda.present() == []
