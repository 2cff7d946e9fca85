"""The GELU-gated unit (Shazeer 2020, arXiv:2002.05202).

T tokens, F features; any shape will do.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pieria.ops.op import Backward, Case, Cost, Inputs, nbytes, op, widen
from pieria.ops.swiglu import gated_backward, gated_cases


@op
def geglu(gate_TF: Tensor, up_TF: Tensor, tanh: bool = True) -> Tensor:
    """y_TF = gelu(gate_TF) * up_TF; the product with `up` in its dtype, gelu in float32 or wider.

    tanh: gelu's approximation 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) (arXiv:1606.08415).
    """
    gated_TF = F.gelu(widen(gate_TF), approximate="tanh" if tanh else "none")
    return gated_TF.to(gate_TF.dtype) * up_TF


@geglu.shapes
def _(gate_TF: Tensor, up_TF: Tensor, tanh: bool = True) -> Tensor:
    return torch.empty_like(gate_TF)


@geglu.cost
def _(out: Tensor, gate_TF: Tensor, up_TF: Tensor, tanh: bool = True) -> Cost:
    return Cost(flops=10 * out.numel(), bytes=nbytes(gate_TF, up_TF, out))


@geglu.backward
def _(out: Tensor, gate_TF: Tensor, up_TF: Tensor, tanh: bool = True) -> Backward:
    return gated_backward(out, gate_TF, up_TF)


@geglu.row
def _(i: int, gate_TF: Tensor, up_TF: Tensor, *rest: Any, **options: Any) -> tuple[Any, ...]:
    return gate_TF[i : i + 1], up_TF[i : i + 1], *rest


@geglu.cases
def _(make: Inputs) -> Iterator[Case]:
    arguments = (make.normal(3, 40, scale=4), make.normal(3, 40), False)
    yield Case("exact", arguments)
    yield from gated_cases(make)
