"""Matrix product with a weight.

I inputs, O outputs; x may have any leading dimensions.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from pieria.ops.op import Backward, Case, Cost, Inputs, nbytes, op
from pieria.ops.weight import Weight, product


@op
def linear(x: Tensor, weight_OI: Tensor | Weight, bias_O: Tensor | None = None) -> Tensor:
    """y_..O = sum_I x_..I * weight_OI + bias_O, summed in float32 or wider. One dtype for all."""
    return product(x, weight_OI, bias_O)


linear.weights = ("weight_OI",)


@linear.shapes
def _(x: Tensor, weight_OI: Tensor | Weight, bias_O: Tensor | None = None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight_OI.shape[0])


@linear.cost
def _(out: Tensor, x: Tensor, weight_OI: Tensor | Weight, bias_O: Tensor | None = None) -> Cost:
    return Cost(flops=2 * out.numel() * x.shape[-1], bytes=nbytes(x, weight_OI, bias_O, out))


@linear.backward
def _(out: Tensor, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Backward:
    return Backward(
        Cost(
            flops=4 * out.numel() * x.shape[-1],
            bytes=2 * nbytes(x, weight_OI) + nbytes(bias_O, out),
        ),
        saved=(x, weight_OI),
    )


@linear.row
def _(i: int, x: Tensor, *rest: Any, **options: Any) -> tuple[Any, ...]:
    return x[i : i + 1], *rest


@linear.cases
def _(make: Inputs) -> Iterator[Case]:
    for rows, inputs, outputs in [(1, 8, 3), (5, 33, 17), (64, 96, 129), (3, 4096, 40)]:
        x, weight_OI = make.normal(rows, inputs), make.normal(outputs, inputs)
        yield Case(f"{rows}x{inputs}x{outputs}", (x, weight_OI), reduction=inputs)
    arguments = (make.normal(4, 24), make.normal(10, 24), make.normal(10))
    yield Case("bias", arguments, reduction=24)
    yield Case("3 dimensions", (make.normal(2, 3, 16), make.normal(5, 16)), reduction=16)
    for inputs, outputs in [(576, 960), (576, 3072), (1536, 576), (576, 49152)]:
        for rows in (1, 32, 512):
            x, weight_OI = make.normal(rows, inputs), make.normal(outputs, inputs)
            name = f"{rows}x{inputs}x{outputs}"
            yield Case(name, (x, weight_OI), reduction=inputs, bench=True)
