"""Rows of a table by token, of the whole table or of one rank's part of it.

T tokens, V rows held here, D features.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pieria.ops.op import Backward, Case, Cost, Inputs, nbytes, op
from pieria.ops.weight import Weight, dense


@op
def embedding(
    tokens_T: Tensor, weight_VD: Tensor | Weight, first: int = 0, scale: float | None = None
) -> Tensor:
    """x_TD = weight_VD[tokens_T - first]; zero where the token is outside of [first, first + V).

    So a sum over the ranks of a vocabulary cut embeds by the whole table. tokens_T: int64.
    scale: what rows are multiplied with, rounded to the weight's dtype first, as the models that
    scale were trained.
    """
    row_T = tokens_T - first
    outside_T = (row_T < 0) | (row_T >= weight_VD.shape[0])
    x_TD = F.embedding(row_T.masked_fill(outside_T, 0), dense(weight_VD))
    x_TD = x_TD.masked_fill_(outside_T.unsqueeze(-1), 0)
    return x_TD if scale is None else x_TD * torch.tensor(scale, dtype=x_TD.dtype)


embedding.weights = ("weight_VD",)


@embedding.shapes
def _(tokens_T: Tensor, weight_VD: Tensor | Weight, *rest: Any, **options: Any) -> Tensor:
    shape = *tokens_T.shape, weight_VD.shape[1]
    return torch.empty(shape, dtype=weight_VD.dtype, device=tokens_T.device)


@embedding.cost
def _(
    out: Tensor, tokens_T: Tensor, weight_VD: Tensor | Weight, *rest: Any, **options: Any
) -> Cost:
    return Cost(bytes=nbytes(tokens_T) + 2 * nbytes(out))


@embedding.backward
def _(
    out: Tensor,
    tokens_T: Tensor,
    weight_VD: Tensor | Weight,
    first: int = 0,
    scale: float | None = None,
) -> Backward:
    return Backward(
        Cost(flops=out.numel(), bytes=nbytes(out, tokens_T, weight_VD)),
        # The local rows, a mask, and the scale.
        extra_bytes=nbytes(tokens_T)
        + tokens_T.numel()
        + (0 if scale is None else out.element_size()),
    )


@embedding.row
def _(i: int, tokens_T: Tensor, *rest: Any, **options: Any) -> tuple[Any, ...]:
    return tokens_T[i : i + 1], *rest


@embedding.cases
def _(make: Inputs) -> Iterator[Case]:
    yield Case("one", (make.integers(0, 5, 1), make.normal(5, 4)))
    yield Case("part", (make.integers(0, 64, 33), make.normal(16, 24), 32))
    yield Case("scaled", (make.integers(0, 16, 9), make.normal(16, 24), 0, 24**0.5))
    yield Case("nothing here", (make.integers(0, 8, 3), make.normal(8, 5), 100))
    yield Case("32 of 4096x576", (make.integers(0, 4096, 32), make.normal(4096, 576)), bench=True)
    for tokens in (1, 32, 512):
        arguments = (make.integers(0, 49152, tokens), make.normal(49152, 576))
        yield Case(f"{tokens} of 49152x576", arguments, bench=True)
