"""Turning pairs of each head's dimensions, and the angles by which they turn."""

import torch
from torch import Tensor

from pieria import ops
from pieria.kernels.cpu import native

_rope = native.kernel("rope", "qPqqPPPqqqqq")
_rotary = native.kernel("rotary", "PPPPqqd")


def _supports(x_THK: Tensor, cos_TR: Tensor, sin_TR: Tensor, interleaved: bool = False) -> bool:
    return (
        x_THK.dtype in native.DTYPES
        and x_THK.stride(2) == 1
        and cos_TR.dtype == sin_TR.dtype == torch.float32
        and cos_TR.is_contiguous()
        and sin_TR.is_contiguous()
    )


@ops.rope.implement(supports=_supports, batch_invariant=True)
def rope(x_THK: Tensor, cos_TR: Tensor, sin_TR: Tensor, interleaved: bool = False) -> Tensor:
    out = x_THK.new_empty(x_THK.shape)
    _rope(
        *(native.DTYPES[x_THK.dtype], x_THK.data_ptr(), x_THK.stride(0), x_THK.stride(1)),
        *(cos_TR.data_ptr(), sin_TR.data_ptr(), out.data_ptr()),
        *(*x_THK.shape, cos_TR.shape[1], interleaved),
    )
    return out


def _supports_angles(positions_T: Tensor, frequencies_R: Tensor, magnitude: float = 1.0) -> bool:
    return (
        frequencies_R.dtype == torch.float32
        and positions_T.is_contiguous()
        and frequencies_R.is_contiguous()
    )


@ops.rotary.implement(supports=_supports_angles, batch_invariant=True)
def rotary(
    positions_T: Tensor, frequencies_R: Tensor, magnitude: float = 1.0
) -> tuple[Tensor, Tensor]:
    shape = len(positions_T), len(frequencies_R)
    cos_TR, sin_TR = frequencies_R.new_empty(shape), frequencies_R.new_empty(shape)
    addresses = (x.data_ptr() for x in (positions_T, frequencies_R, cos_TR, sin_TR))
    _rotary(*addresses, *shape, magnitude)
    return cos_TR, sin_TR
