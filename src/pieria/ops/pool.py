"""One vector for each of the sequences that are laid side by side.

T tokens, R sequences, D features.
"""

from collections.abc import Iterator
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import Tensor

from pieria.ops.op import Backward, Case, Cost, Inputs, nbytes, op, widen

Pooling = Literal["mean", "first", "last"]


@op
def pool(x_TD: Tensor, lengths: tuple[int, ...], how: Pooling) -> Tensor:
    """out_RD: the mean of each sequence's vectors, its first, or its last.

    lengths: tokens of each sequence, none of them 0; they add up to T. Means are taken in float32
    or wider and returned in x's dtype.
    """
    if how == "mean":
        parts = torch.split(widen(x_TD), list(lengths))
        return torch.stack([part.mean(0) for part in parts]).to(x_TD.dtype)
    ends = list(accumulate(lengths))
    rows = [end - n if how == "first" else end - 1 for end, n in zip(ends, lengths, strict=True)]
    return x_TD[torch.tensor(rows, device=x_TD.device)]


@pool.shapes
def _(x_TD: Tensor, lengths: tuple[int, ...], how: Pooling) -> Tensor:
    return x_TD.new_empty(len(lengths), x_TD.shape[1])


@pool.cost
def _(out: Tensor, x_TD: Tensor, lengths: tuple[int, ...], how: Pooling) -> Cost:
    if how == "mean":
        return Cost(flops=x_TD.numel(), bytes=nbytes(x_TD, out))
    return Cost(bytes=2 * nbytes(out))


@pool.backward
def _(out: Tensor, x_TD: Tensor, lengths: tuple[int, ...], how: Pooling) -> Backward:
    cost = Cost(flops=x_TD.numel(), bytes=nbytes(x_TD, out))
    return Backward(cost, extra_bytes=0 if how == "mean" else 8 * len(lengths))  # the rows


@pool.row
def _(i: int, x_TD: Tensor, lengths: tuple[int, ...], how: Pooling) -> tuple[Any, ...]:
    first = sum(lengths[:i])
    return x_TD[first : first + lengths[i]], (lengths[i],), how


@pool.cases
def _(make: Inputs) -> Iterator[Case]:
    hows: tuple[Pooling, ...] = ("mean", "first", "last")
    for how in hows:
        yield Case(how, (make.normal(10, 7), (1, 6, 3), how), reduction=6)
    for how in hows:
        arguments = (make.normal(8192, 768), (256,) * 32, how)
        yield Case(f"{how} of 32x256", arguments, reduction=256, bench=True)
