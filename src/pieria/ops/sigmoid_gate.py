"""What a sigmoid lets through.

T tokens, F features; or a gate of one feature for all of a token's.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pieria.ops.op import Backward, Case, Cost, Inputs, nbytes, op


@op
def sigmoid_gate(x_TF: Tensor, gate_TF: Tensor) -> Tensor:
    """y_TF = x_TF * sigmoid(gate_TF), each in their dtype; gate may be [T, 1]."""
    return x_TF * torch.sigmoid(gate_TF)


@sigmoid_gate.shapes
def _(x_TF: Tensor, gate_TF: Tensor) -> Tensor:
    return torch.empty_like(x_TF)


@sigmoid_gate.cost
def _(out: Tensor, x_TF: Tensor, gate_TF: Tensor) -> Cost:
    return Cost(flops=out.numel() + 4 * gate_TF.numel(), bytes=nbytes(x_TF, gate_TF, out))


@sigmoid_gate.backward
def _(out: Tensor, x_TF: Tensor, gate_TF: Tensor) -> Backward:
    return Backward(
        Cost(flops=5 * out.numel(), bytes=2 * nbytes(x_TF, gate_TF) + nbytes(out)),
        saved=(x_TF,),
        extra_bytes=nbytes(gate_TF),  # the sigmoid
    )


@sigmoid_gate.row
def _(i: int, *tensors: Tensor) -> tuple[Any, ...]:
    return tuple(t[i : i + 1] for t in tensors)


@sigmoid_gate.cases
def _(make: Inputs) -> Iterator[Case]:
    for tokens, features in [(1, 5), (7, 65)]:
        for gates in (features, 1):
            arguments = make.normal(tokens, features), make.normal(tokens, gates, scale=4)
            yield Case(f"{tokens}x{features} by {gates}", arguments)
    for tokens in (1, 32, 512):
        arguments = make.normal(tokens, 2048), make.normal(tokens, 2048)
        yield Case(f"{tokens}x2048", arguments, bench=True)
