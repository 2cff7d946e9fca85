"""Numbers in another format; any shape."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pieria.ops.op import Backward, Case, Cost, Inputs, nbytes, op, widen


@op
def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x in `dtype`, rounded to nearest; x itself if it has that dtype."""
    return x.to(dtype)


@cast.shapes
def _(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x if x.dtype == dtype else torch.empty_like(x, dtype=dtype)


@cast.cost
def _(out: Tensor, x: Tensor, dtype: torch.dtype) -> Cost:
    return Cost(flops=out.numel(), bytes=nbytes(x, out))


@cast.backward
def _(out: Tensor, x: Tensor, dtype: torch.dtype) -> Backward:
    return Backward(Cost(flops=out.numel(), bytes=nbytes(x, out)))


@cast.row
def _(i: int, x: Tensor, dtype: torch.dtype) -> tuple[Any, ...]:
    return x[i : i + 1], dtype


@cast.cases
def _(make: Inputs) -> Iterator[Case]:
    for tokens, features in [(1, 5), (7, 65)]:
        x = make.normal(tokens, features)
        yield Case(f"{tokens}x{features}, wide", (x, widen(x).dtype))
    for tokens in (1, 32, 512):
        yield Case(f"{tokens}x2048", (make.normal(tokens, 2048), torch.float32), bench=True)
