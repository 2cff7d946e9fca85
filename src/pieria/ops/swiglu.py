"""The SiLU-gated unit (Shazeer 2020, arXiv:2002.05202).

T tokens, F features; any shape will do.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pieria.ops.op import Backward, Case, Cost, Inputs, nbytes, op, wide_bytes, widen


@op
def swiglu(gate_TF: Tensor, up_TF: Tensor) -> Tensor:
    """y_TF = silu(gate_TF) * up_TF; silu in float32 or wider, the product in the inputs' dtype."""
    return F.silu(widen(gate_TF)).to(gate_TF.dtype) * up_TF


@swiglu.shapes
def _(gate_TF: Tensor, up_TF: Tensor) -> Tensor:
    return torch.empty_like(gate_TF)


@swiglu.cost
def _(out: Tensor, gate_TF: Tensor, up_TF: Tensor) -> Cost:
    return Cost(flops=5 * out.numel(), bytes=nbytes(gate_TF, up_TF, out))


@swiglu.backward
def _(out: Tensor, gate_TF: Tensor, up_TF: Tensor) -> Backward:
    return gated_backward(out, gate_TF, up_TF)


def gated_backward(out: Tensor, gate_TF: Tensor, up_TF: Tensor) -> Backward:
    """Of any `activation(widen(gate)).to(dtype) * up` whose activation keeps its input alone."""
    wide = wide_bytes(gate_TF)
    is_wide = gate_TF.element_size() == wide
    return Backward(
        Cost(flops=9 * out.numel(), bytes=2 * nbytes(gate_TF, up_TF) + nbytes(out)),
        saved=(gate_TF, up_TF) if is_wide else (up_TF,),
        # The activated gate, and the widened one if it is a copy.
        extra_bytes=nbytes(gate_TF) + (0 if is_wide else wide * gate_TF.numel()),
    )


@swiglu.row
def _(i: int, *tensors: Tensor) -> tuple[Any, ...]:
    return tuple(t[i : i + 1] for t in tensors)


@swiglu.cases
def _(make: Inputs) -> Iterator[Case]:
    yield from gated_cases(make)


def gated_cases(make: Inputs) -> Iterator[Case]:
    for tokens, features in [(1, 5), (7, 65)]:
        arguments = (make.normal(tokens, features, scale=4), make.normal(tokens, features))
        yield Case(f"{tokens}x{features}", arguments)
    for tokens in (1, 32, 512):
        arguments = (make.normal(tokens, 1536), make.normal(tokens, 1536))
        yield Case(f"{tokens}x1536", arguments, bench=True)
