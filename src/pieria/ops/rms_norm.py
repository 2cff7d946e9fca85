"""Root mean square normalisation (Zhang and Sennrich 2019, arXiv:1910.07467).

T tokens, D features; x may have any leading dimensions in place of T.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pieria.ops.op import Backward, Case, Cost, Inputs, nbytes, op, wide_bytes, widen


@op
def rms_norm(
    x: Tensor, weight: Tensor, eps: float, eps_outside: bool = False, offset: float = 0.0
) -> Tensor:
    """y_TD = x_TD / sqrt(mean_D(x^2) + eps) * weight_D.

    Normalised in float32 or wider, scaled by the weight in x's dtype. With `eps_outside` the
    denominator is sqrt(mean_D(x^2)) + eps. With an `offset` the weight is offset + weight_D, and
    scaling is done in the wide dtype too, as Gemma does.
    """
    wide = widen(x)
    mean_square = wide.pow(2).mean(-1, keepdim=True)
    scale = (
        (mean_square.sqrt() + eps).reciprocal() if eps_outside else torch.rsqrt(mean_square + eps)
    )
    if offset:
        return (wide * scale * (widen(weight) + offset)).to(x.dtype)
    return (wide * scale).to(x.dtype) * weight


@rms_norm.shapes
def _(
    x: Tensor, weight: Tensor, eps: float, eps_outside: bool = False, offset: float = 0.0
) -> Tensor:
    return torch.empty_like(x)


@rms_norm.cost
def _(
    out: Tensor,
    x: Tensor,
    weight: Tensor,
    eps: float,
    eps_outside: bool = False,
    offset: float = 0.0,
) -> Cost:
    return Cost(flops=4 * x.numel(), bytes=nbytes(x, weight, out))


@rms_norm.backward
def _(
    out: Tensor,
    x: Tensor,
    weight: Tensor,
    eps: float,
    eps_outside: bool = False,
    offset: float = 0.0,
) -> Backward:
    wide = wide_bytes(x)
    rows = x.numel() // x.shape[-1]
    is_wide = x.element_size() == wide
    # The normalised x and the weight that scales it: both wide if there is an offset.
    factors = wide * (x.numel() + weight.numel()) if offset else nbytes(x)
    return Backward(
        Cost(flops=8 * x.numel(), bytes=2 * nbytes(x, weight) + nbytes(out)),
        saved=(*((x,) if is_wide else ()), *(() if offset else (weight,))),
        # Besides: a scale per row (with eps outside: the root too), and x if it had to be widened.
        extra_bytes=factors
        + rows * wide * (2 if eps_outside else 1)
        + (0 if is_wide else wide * x.numel()),
    )


@rms_norm.row
def _(i: int, x: Tensor, *rest: Any, **options: Any) -> tuple[Any, ...]:
    return x[i : i + 1], *rest


@rms_norm.cases
def _(make: Inputs) -> Iterator[Case]:
    for rows, columns in [(1, 8), (7, 129), (64, 1024), (3, 7168)]:
        x, weight = make.normal(rows, columns), make.normal(columns)
        yield Case(f"{rows}x{columns}", (x, weight, 1e-6), reduction=columns)
    x, weight = make.normal(5, 64, scale=1e-3), make.normal(64)
    yield Case("eps outside", (x, weight, 1e-3, True), reduction=64)
    yield Case("offset", (x, weight, 1e-6, False, 1.0), reduction=64)
    x, weight = make.normal(4, 3, 64), make.normal(64)
    wide = make.normal(6, 100)
    yield Case("part of a row", (wide[:, 20:84], make.normal(64), 1e-5), reduction=64)
    yield Case("heads", (x, weight, 1e-5), reduction=64)
    for rows, columns in [(1, 576), (32, 576), (512, 576), (2048, 4096)]:
        x, weight = make.normal(rows, columns), make.normal(columns)
        yield Case(f"{rows}x{columns}", (x, weight, 1e-6), reduction=columns, bench=True)
