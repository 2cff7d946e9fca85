"""A limit that values near smoothly, as Gemma 2 has on its logits (arXiv:2408.00118, section 2)."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pieria.ops.op import Backward, Case, Cost, Inputs, nbytes, op


@op
def soft_cap(x: Tensor, cap: float) -> Tensor:
    """y = cap * tanh(x / cap), of any shape, in x's dtype."""
    return torch.tanh(x / cap) * cap


@soft_cap.shapes
def _(x: Tensor, cap: float) -> Tensor:
    return torch.empty_like(x)


@soft_cap.cost
def _(out: Tensor, x: Tensor, cap: float) -> Cost:
    return Cost(flops=7 * x.numel(), bytes=nbytes(x, out))


@soft_cap.backward
def _(out: Tensor, x: Tensor, cap: float) -> Backward:
    return Backward(
        Cost(flops=5 * x.numel(), bytes=2 * nbytes(x) + nbytes(out)),
        extra_bytes=nbytes(x),  # the tanh
    )


@soft_cap.row
def _(i: int, x: Tensor, cap: float) -> tuple[Any, ...]:
    return x[i : i + 1], cap


@soft_cap.cases
def _(make: Inputs) -> Iterator[Case]:
    yield Case("1x7", (make.normal(1, 7, scale=20), 30.0))
    yield Case("5x70", (make.normal(5, 70, scale=60), 30.0))
    yield Case("small", (make.normal(3, 40, scale=0.1), 50.0))
    for tokens in (1, 32):
        yield Case(f"{tokens}x262144", (make.normal(tokens, 262144, scale=20), 30.0), bench=True)
