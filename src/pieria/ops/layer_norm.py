"""Layer normalisation (Ba et al. 2016, arXiv:1607.06450).

T tokens, D features; x may have any leading dimensions in place of T.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pieria.ops.op import Backward, Case, Cost, Inputs, nbytes, op, wide_bytes, widen


@op
def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """y_TD = (x_TD - mean_D(x)) / sqrt(variance_D(x) + eps) * weight_D + bias_D.

    In float32 or wider, returned in x's dtype. The variance is that of all D, not of a sample.
    """
    wide = F.layer_norm(widen(x), weight.shape, widen(weight), widen(bias), eps)
    return wide.to(x.dtype)


@layer_norm.shapes
def _(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return torch.empty_like(x)


@layer_norm.cost
def _(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Cost:
    return Cost(flops=8 * x.numel(), bytes=nbytes(x, weight, bias, out))


@layer_norm.backward
def _(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Backward:
    wide = wide_bytes(x)
    is_wide = x.element_size() == wide
    kept = (x, weight, bias)
    rows = x.numel() // x.shape[-1]
    return Backward(
        Cost(flops=12 * x.numel(), bytes=2 * nbytes(*kept) + nbytes(out)),
        saved=kept if is_wide else (),
        # A mean and a scale per row, and widened copies.
        extra_bytes=wide * (2 * rows + (0 if is_wide else sum(t.numel() for t in kept))),
    )


@layer_norm.row
def _(i: int, x: Tensor, *rest: Any) -> tuple[Any, ...]:
    return x[i : i + 1], *rest


@layer_norm.cases
def _(make: Inputs) -> Iterator[Case]:
    for rows, columns in [(1, 8), (7, 129), (64, 1024)]:
        arguments = make.normal(rows, columns), make.normal(columns), make.normal(columns)
        yield Case(f"{rows}x{columns}", (*arguments, 1e-6), reduction=columns)
    small = make.normal(5, 64, scale=1e-3), make.normal(64), make.normal(64)
    yield Case("small", (*small, 1e-3), reduction=64)
    for rows in (1, 32, 512):
        arguments = make.normal(rows, 768), make.normal(768), make.normal(768)
        yield Case(f"{rows}x768", (*arguments, 1e-12), reduction=768, bench=True)
