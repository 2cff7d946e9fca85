"""GPUs that torch reaches as "cuda": NVIDIA's, and AMD's in ROCm builds of torch.

Detection and facts only.
"""

from collections.abc import Callable
from typing import Any

import torch

from pieria.hardware.gpu import gpu, peak_of
from pieria.hardware.spec import Device, Quantity

_EVERY = frozenset({"float64", "float32", "float16"})


def present() -> list[Device]:
    """Every such GPU, in torch's order."""
    if not torch.cuda.is_available():
        return []
    return [
        device(i, torch.cuda.get_device_properties(i), rocm=torch.version.hip is not None)
        for i in range(torch.cuda.device_count())
    ]


def device(index: int, properties: Any, rocm: bool) -> Device:
    """One GPU, from what torch reports.

    Native dtypes are by compute capability as in NVIDIA's CUDA C++ Programming Guide, "Arithmetic
    Instructions"; of AMD's only what all that ROCm supports have.
    """
    capability = (properties.major, properties.minor)
    native = _EVERY
    if rocm:
        return gpu("cuda", index, properties, "AMD", native, "nccl")
    if capability >= (6, 1):
        native |= {"int8"}
    if capability >= (8, 0):
        native |= {"bfloat16"}
    if capability >= (8, 9):
        native |= {"float8_e4m3fn", "float8_e5m2"}
    return gpu("cuda", index, properties, "NVIDIA", native, "nccl")


def free_memory(index: int) -> Quantity:
    """Bytes that nobody uses on this GPU."""
    free, _ = torch.cuda.mem_get_info(index)
    return Quantity(free, "B", "torch.cuda.mem_get_info")


def program(index: int) -> int:
    """Bytes of tensors that this process has on this GPU."""
    return int(torch.cuda.memory_allocated(index))


def peak(index: int, work: Callable[[], object]) -> int | None:
    """The most bytes of tensors that `work` has at once beside what is there."""
    return peak_of(torch.cuda, index, work)
