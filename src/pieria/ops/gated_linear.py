"""Two matrix products joined by a gate: the first half of a gated feed-forward network.

Source: Shazeer 2020, arXiv:2002.05202. I inputs, F features.
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from pieria.ops.op import Backward, Case, Cost, Inputs, nbytes, op, wide_bytes, widen
from pieria.ops.weight import Weight, dense, product

Activation = Literal["silu", "gelu", "gelu_tanh"]


@op
def gated_linear(
    x: Tensor,
    gate_FI: Tensor | Weight,
    up_FI: Tensor | Weight,
    gate_bias_F: Tensor | None = None,
    up_bias_F: Tensor | None = None,
    activation: Activation = "silu",
) -> Tensor:
    """y_..F = activation(x gate_FI^T + gate_bias_F) * (x up_FI^T + up_bias_F).

    Products and activation in float32 or wider; gelu_tanh as in arXiv:1606.08415, section 2.
    """
    gate = product(x, gate_FI, gate_bias_F)
    up = product(x, up_FI, up_bias_F)
    return activated(gate, activation).to(x.dtype) * up


def activated(x: Tensor, activation: Activation) -> Tensor:
    """In float32 or wider."""
    if activation == "silu":
        return F.silu(widen(x))
    return F.gelu(widen(x), approximate="tanh" if activation == "gelu_tanh" else "none")


gated_linear.weights = ("gate_FI", "up_FI")


@gated_linear.shapes
def _(x: Tensor, gate_FI: Tensor | Weight, *rest: Any, **options: Any) -> Tensor:
    return x.new_empty(*x.shape[:-1], gate_FI.shape[0])


@gated_linear.cost
def _(
    out: Tensor,
    x: Tensor,
    gate_FI: Tensor | Weight,
    up_FI: Tensor | Weight,
    gate_bias_F: Tensor | None = None,
    up_bias_F: Tensor | None = None,
    activation: Activation = "silu",
) -> Cost:
    return Cost(
        flops=(4 * x.shape[-1] + (5 if activation == "silu" else 10)) * out.numel(),
        bytes=nbytes(x, gate_FI, up_FI, gate_bias_F, up_bias_F, out),
    )


@gated_linear.backward
def _(
    out: Tensor,
    x: Tensor,
    gate_FI: Tensor | Weight,
    up_FI: Tensor | Weight,
    gate_bias_F: Tensor | None = None,
    up_bias_F: Tensor | None = None,
    activation: Activation = "silu",
) -> Backward:
    wide = wide_bytes(x)
    copied = x.element_size() != wide
    # The gate's product (widened), the activated gate and the product of up.
    return Backward(
        Cost(
            flops=(8 * x.shape[-1] + 9) * out.numel(),
            bytes=2 * nbytes(x, gate_FI, up_FI) + nbytes(gate_bias_F, up_bias_F, out),
        ),
        saved=(x, dense(gate_FI), dense(up_FI)),
        extra_bytes=(wide + 2 * x.element_size()) * out.numel() if copied else 3 * nbytes(out),
    )


@gated_linear.row
def _(i: int, x: Tensor, *rest: Any, **options: Any) -> tuple[Any, ...]:
    return x[i : i + 1], *rest


@gated_linear.cases
def _(make: Inputs) -> Iterator[Case]:
    def case(rows: int, inputs: int, features: int, bench: bool = False, **options: Any) -> Case:
        scale = inputs**-0.5
        arguments = (
            make.normal(rows, inputs),
            make.normal(features, inputs, scale=2 * scale),
            make.normal(features, inputs, scale=scale),
        )
        name = f"{rows}x{inputs}x{features}"
        return Case(" ".join([name, *options.values()]), arguments, options, inputs, bench)

    for activation in ("silu", "gelu", "gelu_tanh"):
        yield case(1, 4, 3, activation=activation)
        yield case(17, 40, 70, activation=activation)
    biases = make.normal(10), make.normal(10)
    arguments = (make.normal(4, 24), make.normal(10, 24), make.normal(10, 24), *biases)
    yield Case("bias", arguments, reduction=24)
    for rows in (1, 32, 512):
        yield case(rows, 576, 1536, bench=True)
        yield case(rows, 2048, 8192, bench=True)
