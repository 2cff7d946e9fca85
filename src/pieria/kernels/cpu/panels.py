"""Weights in panels, as the kernels for matrix products read them; `panels.h` has the layout."""

import torch
from torch import Tensor

from pieria.kernels.cpu import native
from pieria.ops import Weight

FORMAT = "panels"
WIDTH = 32
"""Outputs in a panel."""

_pack = native.kernel("pack_weight", "qPqqqP")


def pack(weight: Tensor) -> Weight | None:
    """Of a matrix [outputs, inputs], or of a stack of them; None for a dtype without kernels."""
    if weight.dtype not in native.DTYPES or weight.ndim not in (2, 3):
        return None
    outputs, inputs = weight.shape[-2:]
    depth = 2 if paired(weight.dtype) else 1
    panels, steps = -(-outputs // WIDTH), -(-inputs // depth)
    packed = weight.new_empty(*weight.shape[:-2], panels, steps, WIDTH, depth)
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
    return Weight(FORMAT, tuple(weight.shape), weight.dtype, (packed,), dense)


def dense(weight: Weight) -> Tensor:
    """Back to what was packed."""
    (packed,) = weight.tensors
    *stack, panels, steps, width, depth = packed.shape
    rows = packed.transpose(-3, -2).reshape(*stack, panels * width, steps * depth)
    outputs, inputs = weight.shape[-2:]
    return rows[..., :outputs, :inputs].contiguous()


def paired(dtype: torch.dtype) -> bool:
    """Whether a step of a product takes two neighbours along the inputs."""
    return dtype == torch.bfloat16 and native.active().name == "avx512_bf16"


def is_panels(weight: Tensor | Weight, dtype: torch.dtype) -> bool:
    """Whether a kernel can multiply something of `dtype` with it."""
    return isinstance(weight, Weight) and weight.format == FORMAT and weight.dtype == dtype
