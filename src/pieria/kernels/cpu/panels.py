"""Weights in panels, as the kernels for matrix products read them; `panels.h` has the layout."""

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from pieria.hardware import memory
from pieria.kernels.cpu import native
from pieria.ops import Weight

WIDTH = 32
"""Outputs in a panel."""

SLAB_BYTES = 64 << 20
ALIGNMENT = 64


class Memory:
    """Memory for weights, in pieces of a few large slabs: small allocations get no large pages.

    A slab is given back when no weight in it is left.
    """

    def __init__(self) -> None:
        self._slab = torch.empty(0, dtype=torch.uint8)
        self._used = 0

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        size = prod(shape) * dtype.itemsize
        begin = -(-self._used // ALIGNMENT) * ALIGNMENT
        if begin + size > len(self._slab):
            self._slab, begin = memory.zeros(max(size, SLAB_BYTES)), 0
        self._used = begin + size
        return self._slab[begin : begin + size].view(dtype).view(shape)


_memory = Memory()
take = _memory.take
_pack = native.kernel("pack_weight", "qPqqqP")


def pack(weight: Tensor | Weight) -> Weight | None:
    """Of a matrix [outputs, inputs], or of a stack of them; None for a dtype without kernels."""
    if isinstance(weight, Weight):
        return weight if isinstance(weight.format, Panels) else None
    if weight.dtype not in native.DTYPES or weight.ndim not in (2, 3):
        return None
    outputs, inputs = weight.shape[-2:]
    depth = 2 if paired(weight.dtype) else 1
    panels, steps = -(-outputs // WIDTH), -(-inputs // depth)
    packed = take((*weight.shape[:-2], panels, steps, WIDTH, depth), weight.dtype)
    flat = weight.reshape(-1, outputs, inputs)
    if flat.stride(2) != 1:
        flat = flat.contiguous()
    for matrix, into in zip(flat, packed.view(len(flat), *packed.shape[-4:]), strict=True):
        _pack(
            native.DTYPES[weight.dtype],
            matrix.data_ptr(),
            matrix.stride(0),
            outputs,
            inputs,
            into.data_ptr(),
        )
    return Weight(Panels(), tuple(weight.shape), weight.dtype, (packed,))


@dataclass(frozen=True)
class Panels:
    """Numbers as they are, in panels."""

    name: str = "panels"

    def values(self, weight: Weight) -> Tensor:
        """What was packed."""
        (packed,) = weight.tensors
        *stack, panels, steps, width, depth = packed.shape
        rows = packed.transpose(-3, -2).reshape(*stack, panels * width, steps * depth)
        outputs, inputs = weight.shape[-2:]
        return rows[..., :outputs, :inputs].contiguous()

    def rounded(self, x: Tensor) -> Tensor:
        return x


def paired(dtype: torch.dtype) -> bool:
    """Whether a step of a product takes two neighbours along the inputs."""
    return dtype == torch.bfloat16


def is_panels(weight: Tensor | Weight, dtype: torch.dtype) -> bool:
    """Whether a kernel can multiply something of `dtype` with it."""
    return (
        isinstance(weight, Weight) and isinstance(weight.format, Panels) and weight.dtype == dtype
    )
