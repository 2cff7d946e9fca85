"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864) with half-split pairs, as GPT-NeoX.

T tokens, H heads, K dimensions of a head, R dimension pairs that turn.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pieria.ops.op import Backward, Case, Cost, Inputs, nbytes, op, wide_bytes, widen


@op
def rope(x_THK: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> Tensor:
    """Each pair (x_i, x_(R+i)), i < R, of a head turned by the token's angle i; the rest as it is.

    Computed in float32 or wider, returned in x's dtype. No gradient for the angles.
    """
    pairs = cos_TR.shape[1]
    cos_T1R, sin_T1R = widen(cos_TR)[:, None], widen(sin_TR)[:, None]
    wide_THK = widen(x_THK)
    a_THR, b_THR, rest = wide_THK.tensor_split([pairs, 2 * pairs], dim=-1)
    turned = [
        torch.addcmul(a_THR * cos_T1R, b_THR, sin_T1R, value=-1),
        torch.addcmul(b_THR * cos_T1R, a_THR, sin_T1R),
    ]
    return torch.cat([*turned, rest], dim=-1).to(x_THK.dtype)


rope.constants = ("cos_TR", "sin_TR")


@rope.shapes
def _(x_THK: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> Tensor:
    return x_THK.new_empty(x_THK.shape)


@rope.cost
def _(out: Tensor, x_THK: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> Cost:
    flops = 6 * x_THK.shape[1] * cos_TR.numel()
    return Cost(flops, nbytes(x_THK, cos_TR, sin_TR, out))


@rope.backward
def _(out: Tensor, x_THK: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> Backward:
    flops = 6 * x_THK.shape[1] * cos_TR.numel()
    kept = cos_TR.element_size() == wide_bytes(cos_TR)
    return Backward(
        Cost(flops, nbytes(x_THK, cos_TR, sin_TR, out)),
        saved=(cos_TR, sin_TR) if kept else (),
        extra_bytes=0 if kept else wide_bytes(cos_TR) * (cos_TR.numel() + sin_TR.numel()),
    )


@rope.row
def _(i: int, *tensors: Tensor) -> tuple[Any, ...]:
    return tuple(t[i : i + 1] for t in tensors)


@rope.cases
def _(make: Inputs) -> Iterator[Case]:
    for name, tokens, heads, size, pairs in [
        ("one", 1, 1, 4, 2),
        ("whole heads", 7, 3, 64, 32),
        ("half of a head", 5, 2, 24, 6),
    ]:
        yield Case(name, (make.normal(tokens, heads, size), *_turns(make, tokens, pairs)))
    for tokens in (1, 32, 512):
        arguments = (make.normal(tokens, 9, 64), *_turns(make, tokens, 32))
        yield Case(f"{tokens}x9x64", arguments, bench=True)


def _turns(make: Inputs, tokens: int, pairs: int) -> tuple[Tensor, Tensor]:
    angle_TR = widen(make.normal(tokens, pairs, scale=3))
    return angle_TR.cos(), angle_TR.sin()
