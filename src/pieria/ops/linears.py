"""Matrix products of one input with several weights, such as a token's query, key and value.

I inputs; each weight has outputs of its own.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from pieria.ops.op import Backward, Case, Cost, Inputs, nbytes, op
from pieria.ops.weight import Weight, dense, product

Weights = tuple[Tensor | Weight, ...]
Biases = tuple[Tensor | None, ...]


@op
def linears(x: Tensor, weights: Weights, biases: Biases) -> tuple[Tensor, ...]:
    """`linear(x, weight, bias)` of each weight [O, I] and its bias [O]."""
    pairs = zip(weights, biases, strict=True)
    return tuple(product(x, weight, bias) for weight, bias in pairs)


linears.weights = ("weights",)


@linears.shapes
def _(x: Tensor, weights: Weights, biases: Biases) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(*x.shape[:-1], weight.shape[0]) for weight in weights)


@linears.cost
def _(out: tuple[Tensor, ...], x: Tensor, weights: Weights, biases: Biases) -> Cost:
    return Cost(
        flops=2 * sum(y.numel() for y in out) * x.shape[-1],
        bytes=nbytes(x, *weights, *biases, *out),
    )


@linears.backward
def _(out: tuple[Tensor, ...], x: Tensor, weights: Weights, biases: Biases) -> Backward:
    return Backward(
        Cost(
            flops=4 * sum(y.numel() for y in out) * x.shape[-1],
            bytes=2 * nbytes(x, *weights) + nbytes(*biases, *out),
        ),
        saved=(x, *map(dense, weights)),
    )


@linears.row
def _(i: int, x: Tensor, *rest: Any) -> tuple[Any, ...]:
    return x[i : i + 1], *rest


@linears.cases
def _(make: Inputs) -> Iterator[Case]:
    def case(rows: int, inputs: int, outputs: tuple[int, ...], bench: bool = False) -> Case:
        weights = tuple(make.normal(n, inputs) for n in outputs)
        biases = tuple(make.normal(n) if i % 2 else None for i, n in enumerate(outputs))
        arguments = make.normal(rows, inputs), weights, biases
        return Case(f"{rows}x{inputs}x{sum(outputs)}", arguments, {}, inputs, bench)

    yield case(1, 4, (3, 1))
    yield case(5, 33, (17, 40, 32))
    yield case(130, 96, (64, 16, 16))
    for rows in (1, 32, 512):
        yield case(rows, 576, (576, 192, 192), bench=True)
        yield case(rows, 2048, (2048, 512, 512), bench=True)
