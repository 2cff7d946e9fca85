"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864), pairs half-split or side by side.

T tokens, H heads, K dimensions of a head, R dimension pairs that turn.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pieria.ops.op import Backward, Case, Cost, Inputs, nbytes, op, wide_bytes, widen


@op
def rope(x_THK: Tensor, cos_TR: Tensor, sin_TR: Tensor, interleaved: bool = False) -> Tensor:
    """Each pair (x_i, x_(R+i)), i < R, of a head turned by the token's angle i; the rest as it is.

    With `interleaved` the pairs are (x_2i, x_(2i+1)), as Su et al. have them; else as GPT-NeoX.
    Computed in float32 or wider, returned in x's dtype. No gradient for the angles.
    """
    pairs = cos_TR.shape[1]
    cos_T1R, sin_T1R = widen(cos_TR)[:, None], widen(sin_TR)[:, None]
    wide_THK = widen(x_THK)
    if interleaved:
        turning, rest = wide_THK.tensor_split([2 * pairs], dim=-1)
        a_THR, b_THR = turning[..., 0::2], turning[..., 1::2]
    else:
        a_THR, b_THR, rest = wide_THK.tensor_split([pairs, 2 * pairs], dim=-1)
    turned = [
        torch.addcmul(a_THR * cos_T1R, b_THR, sin_T1R, value=-1),
        torch.addcmul(b_THR * cos_T1R, a_THR, sin_T1R),
    ]
    if interleaved:
        turned = [torch.stack(turned, dim=-1).flatten(2)]
    return torch.cat([*turned, rest], dim=-1).to(x_THK.dtype)


rope.constants = ("cos_TR", "sin_TR")


@rope.shapes
def _(x_THK: Tensor, cos_TR: Tensor, sin_TR: Tensor, interleaved: bool = False) -> Tensor:
    return x_THK.new_empty(x_THK.shape)


@rope.cost
def _(
    out: Tensor, x_THK: Tensor, cos_TR: Tensor, sin_TR: Tensor, interleaved: bool = False
) -> Cost:
    flops = 6 * x_THK.shape[1] * cos_TR.numel()
    return Cost(flops, nbytes(x_THK, cos_TR, sin_TR, out))


@rope.backward
def _(
    out: Tensor, x_THK: Tensor, cos_TR: Tensor, sin_TR: Tensor, interleaved: bool = False
) -> Backward:
    flops = 6 * x_THK.shape[1] * cos_TR.numel()
    kept = cos_TR.element_size() == wide_bytes(cos_TR)
    return Backward(
        Cost(flops, nbytes(x_THK, cos_TR, sin_TR, out)),
        saved=(cos_TR, sin_TR) if kept else (),
        extra_bytes=0 if kept else wide_bytes(cos_TR) * (cos_TR.numel() + sin_TR.numel()),
    )


@rope.row
def _(i: int, x_THK: Tensor, cos_TR: Tensor, sin_TR: Tensor, *rest: bool) -> tuple[Any, ...]:
    return x_THK[i : i + 1], cos_TR[i : i + 1], sin_TR[i : i + 1], *rest


@rope.cases
def _(make: Inputs) -> Iterator[Case]:
    for name, tokens, heads, size, pairs in [
        ("one", 1, 1, 4, 2),
        ("whole heads", 7, 3, 64, 32),
        ("half of a head", 5, 2, 24, 6),
    ]:
        yield Case(name, (make.normal(tokens, heads, size), *_turns(make, tokens, pairs)))
    arguments = make.normal(5, 2, 24), *_turns(make, 5, 6)
    yield Case("side by side", (*arguments, True))
    for tokens in (1, 32, 512):
        arguments = (make.normal(tokens, 9, 64), *_turns(make, tokens, 32))
        yield Case(f"{tokens}x9x64", arguments, bench=True)


def _turns(make: Inputs, tokens: int, pairs: int) -> tuple[Tensor, Tensor]:
    angle_TR = widen(make.normal(tokens, pairs, scale=3))
    return angle_TR.cos(), angle_TR.sin()
