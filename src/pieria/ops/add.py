"""A sum of two tensors.

T tokens, D features; x may have any leading dimensions in place of T.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pieria.ops.op import Backward, Case, Cost, Inputs, nbytes, op


@op
def add(x: Tensor, y: Tensor) -> Tensor:
    """s_TD = x_TD + y_TD in their dtype; y may be [D], the same for every token."""
    return x + y


@add.shapes
def _(x: Tensor, y: Tensor) -> Tensor:
    return torch.empty_like(x)


@add.cost
def _(out: Tensor, x: Tensor, y: Tensor) -> Cost:
    return Cost(flops=out.numel(), bytes=nbytes(x, y, out))


@add.backward
def _(out: Tensor, x: Tensor, y: Tensor) -> Backward:
    """Both have the sum's gradient; y's is summed over tokens where it is the same for all."""
    return Backward(Cost(flops=out.numel(), bytes=nbytes(x, y, out)))


@add.row
def _(i: int, x: Tensor, y: Tensor) -> tuple[Any, ...]:
    return x[i : i + 1], y[i : i + 1] if y.ndim == x.ndim else y


@add.cases
def _(make: Inputs) -> Iterator[Case]:
    for tokens, features in [(1, 5), (7, 65)]:
        x = make.normal(tokens, features)
        yield Case(f"{tokens}x{features}", (x, make.normal(tokens, features)))
        yield Case(f"{tokens}x{features}, one for all", (x, make.normal(features)))
    for tokens in (1, 32, 512):
        arguments = make.normal(tokens, 2048), make.normal(tokens, 2048)
        yield Case(f"{tokens}x2048", arguments, bench=True)
