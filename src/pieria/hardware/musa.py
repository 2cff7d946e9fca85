"""GPUs that torch_musa adds to torch as "musa": Moore Threads'.

Detection and facts only, written from torch_musa 2.7's interface. torch loads torch_musa by itself
where it is installed.
"""

from collections.abc import Callable
from typing import Any

import torch

from pieria.hardware.gpu import gpu, peak_of
from pieria.hardware.spec import Device, Quantity


def present() -> list[Device]:
    """Every such GPU, in torch_musa's order."""
    musa = getattr(torch, "musa", None)
    if musa is None or not musa.is_available():
        return []
    return [device(i, musa.get_device_properties(i)) for i in range(musa.device_count())]


def device(index: int, properties: Any) -> Device:
    """From what torch_musa reports.

    Native dtypes are the inputs of the matrix unit: in MUTLASS since compute capability 3.1 (MTT
    S5000) float16, bfloat16, float8 and int8; float32 is everywhere.
    """
    native = frozenset({"float32", "float16"})
    if (properties.major, properties.minor) >= (2, 2):
        native |= {"bfloat16"}
    if (properties.major, properties.minor) >= (3, 1):
        native |= {"int8", "float8_e4m3fn", "float8_e5m2", "float64"}
    return gpu("musa", index, properties, "Moore Threads", native, "mccl")


def free_memory(index: int) -> Quantity:
    """Bytes that nobody uses on this GPU."""
    free, _ = torch.musa.mem_get_info(index)  # type: ignore[attr-defined]
    return Quantity(free, "B", "torch.musa.mem_get_info")


def program(index: int) -> int:
    """Bytes of tensors that this process has on this GPU."""
    return int(torch.musa.memory_allocated(index))  # type: ignore[attr-defined]


def peak(index: int, work: Callable[[], object]) -> int | None:
    """The most bytes of tensors that `work` has at once beside what is there."""
    return peak_of(torch.musa, index, work)  # type: ignore[attr-defined]
