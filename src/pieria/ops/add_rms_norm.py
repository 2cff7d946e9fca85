"""Adding to the residual stream, and the norm of what comes out.

T tokens, D features; any leading dimensions in place of T.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pieria.ops.op import Backward, Case, Cost, Inputs, nbytes, op
from pieria.ops.rms_norm import rms_norm


@op
def add_rms_norm(
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    eps: float,
    eps_outside: bool = False,
    offset: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """s_TD = x_TD + y_TD in their dtype, and `rms_norm(s_TD, weight_D, ...)`."""
    total = x + y
    return total, rms_norm.reference(total, weight, eps, eps_outside, offset)


@add_rms_norm.shapes
def _(x: Tensor, y: Tensor, *rest: Any, **options: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(x)


@add_rms_norm.cost
def _(
    out: tuple[Tensor, Tensor], x: Tensor, y: Tensor, weight: Tensor, *rest: Any, **options: Any
) -> Cost:
    return Cost(flops=5 * x.numel(), bytes=nbytes(x, y, weight, *out))


@add_rms_norm.backward
def _(
    out: tuple[Tensor, Tensor], x: Tensor, y: Tensor, weight: Tensor, *rest: Any, **options: Any
) -> Backward:
    total, normed = out
    after = rms_norm.backward_of(normed, total, weight, *rest, **options)
    cost = after.cost + Cost(x.numel(), nbytes(x, y))
    return Backward(cost, after.saved, after.extra_bytes)


@add_rms_norm.row
def _(i: int, x: Tensor, y: Tensor, *rest: Any, **options: Any) -> tuple[Any, ...]:
    return x[i : i + 1], y[i : i + 1], *rest


@add_rms_norm.cases
def _(make: Inputs) -> Iterator[Case]:
    def case(rows: int, columns: int, *rest: Any, name: str = "", bench: bool = False) -> Case:
        arguments = (
            make.normal(rows, columns),
            make.normal(rows, columns),
            make.normal(columns),
            *(rest or (1e-6,)),
        )
        return Case(name or f"{rows}x{columns}", arguments, reduction=columns, bench=bench)

    yield case(1, 8)
    yield case(7, 129)
    yield case(3, 7168)
    yield case(5, 64, 1e-3, True, name="eps outside")
    yield case(5, 64, 1e-6, False, 1.0, name="offset")
    for rows, columns in [(1, 576), (32, 576), (512, 576), (2048, 4096)]:
        yield case(rows, columns, bench=True)
