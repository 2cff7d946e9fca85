"""The Gaussian error linear unit (Hendrycks and Gimpel 2016, arXiv:1606.08415); any shape."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pieria.ops.op import Backward, Case, Cost, Inputs, nbytes, op, wide_bytes, widen


@op
def gelu(x: Tensor, tanh: bool = False) -> Tensor:
    """y = x times the normal distribution's share below x, in float32 or wider, in x's dtype.

    tanh: its approximation 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
    """
    return F.gelu(widen(x), approximate="tanh" if tanh else "none").to(x.dtype)


@gelu.shapes
def _(x: Tensor, tanh: bool = False) -> Tensor:
    return torch.empty_like(x)


@gelu.cost
def _(out: Tensor, x: Tensor, tanh: bool = False) -> Cost:
    return Cost(flops=9 * out.numel(), bytes=nbytes(x, out))


@gelu.backward
def _(out: Tensor, x: Tensor, tanh: bool = False) -> Backward:
    is_wide = x.element_size() == wide_bytes(x)
    return Backward(
        Cost(flops=15 * out.numel(), bytes=2 * nbytes(x) + nbytes(out)),
        saved=(x,) if is_wide else (),
        extra_bytes=0 if is_wide else wide_bytes(x) * x.numel(),
    )


@gelu.row
def _(i: int, x: Tensor, *rest: bool) -> tuple[Any, ...]:
    return x[i : i + 1], *rest


@gelu.cases
def _(make: Inputs) -> Iterator[Case]:
    yield Case("exact", (make.normal(7, 65, scale=4),))
    yield Case("tanh", (make.normal(3, 9, scale=4), True))
    for tokens in (1, 32, 512):
        yield Case(f"{tokens}x3072", (make.normal(tokens, 3072),), bench=True)
