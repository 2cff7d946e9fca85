"""Matrix product with a weight of each head's own.

T tokens, H heads, I inputs, O outputs of a head.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from pieria.ops.op import Backward, Case, Cost, Inputs, nbytes, op
from pieria.ops.weight import Weight, dense


@op
def head_linear(x_THI: Tensor, weight_HOI: Tensor | Weight) -> Tensor:
    """y_THO = sum_I x_THI * weight_HOI, summed in float32 or wider. One dtype for both.

    Both may be views of any strides.
    """
    return (x_THI.transpose(0, 1) @ dense(weight_HOI).transpose(1, 2)).transpose(0, 1)


head_linear.weights = ("weight_HOI",)


@head_linear.shapes
def _(x_THI: Tensor, weight_HOI: Tensor | Weight) -> Tensor:
    return x_THI.new_empty(*x_THI.shape[:2], weight_HOI.shape[1])


@head_linear.cost
def _(out: Tensor, x_THI: Tensor, weight_HOI: Tensor | Weight) -> Cost:
    return Cost(2 * out.numel() * x_THI.shape[2], nbytes(x_THI, weight_HOI, out))


@head_linear.backward
def _(out: Tensor, x_THI: Tensor, weight_HOI: Tensor) -> Backward:
    return Backward(
        Cost(4 * out.numel() * x_THI.shape[2], 2 * nbytes(x_THI, weight_HOI) + nbytes(out)),
        saved=(x_THI, weight_HOI),
    )


@head_linear.row
def _(i: int, x_THI: Tensor, weight_HOI: Tensor | Weight) -> tuple[Any, ...]:
    return x_THI[i : i + 1], weight_HOI


@head_linear.cases
def _(make: Inputs) -> Iterator[Case]:
    def case(tokens: int, heads: int, inputs: int, outputs: int, bench: bool = False) -> Case:
        arguments = make.normal(tokens, heads, inputs), make.normal(heads, outputs, inputs)
        return Case(f"{tokens}x{heads}x{inputs}x{outputs}", arguments, {}, inputs, bench)

    yield case(1, 1, 4, 3)
    yield case(5, 2, 33, 17)
    yield case(40, 4, 24, 64)
    strided = make.normal(7, 3, 40)[:, :, :24], make.normal(3, 30, 16)[:, :24].transpose(1, 2)
    yield Case("views", strided, reduction=24)
    for tokens in (1, 32, 512):
        yield case(tokens, 32, 128, 512, bench=True)
        yield case(tokens, 32, 512, 128, bench=True)
