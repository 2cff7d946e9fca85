"""Matrix products with packed weights: one, several of the same input, and two joined by a gate."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from pieria import ops
from pieria.kernels.cpu import native, quantized
from pieria.kernels.cpu.panels import is_panels, pack
from pieria.kernels.cpu.quantized import Packed
from pieria.ops import Weight

ACTIVATIONS = {"silu": 0, "gelu": 1, "gelu_tanh": 2}
"""The numbers are those of `activation.h`."""

_INPUT = "qPqqq"
_MATRIX = "PPPPqq"
_gated = native.kernel("gated_linear", _INPUT + "q" + 2 * _MATRIX)
_quantized_gated = native.kernel("quantized_gated_linear", _INPUT + "q" + 2 * _MATRIX)


def rule(weight: Tensor | Weight, x: Tensor) -> int | None:
    """Weights of one rule can be multiplied in one call; None: no kernel multiplies x with it."""
    if is_panels(weight, x.dtype):
        return -1
    if isinstance(weight, Weight) and isinstance(weight.format, Packed):
        return weight.format.rule if x.dtype in native.DTYPES else None
    return None


def packed(weight: Tensor | Weight) -> Weight | None:
    """For products: as it is, or with its few bits, in panels."""
    return quantized.pack(weight) or pack(weight)


def _supports(x: Tensor, weight: Tensor | Weight, *rest: Any) -> bool:
    return rule(weight, x) is not None


def _supports_each(x: Tensor, weights: tuple[Tensor | Weight, ...], *rest: Any) -> bool:
    return all(rule(weight, x) is not None for weight in weights)


def _supports_gated(
    x: Tensor, gate: Tensor | Weight, up: Tensor | Weight, *rest: Any, **options: Any
) -> bool:
    found = rule(gate, x)
    return found is not None and found == rule(up, x)


@ops.linear.implement(supports=_supports, batch_invariant=True, pack=packed)
def linear(x: Tensor, weight_OI: Weight, bias_O: Tensor | None = None) -> Tensor:
    return linears(x, (weight_OI,), (bias_O,))[0]


@ops.linears.implement(supports=_supports_each, batch_invariant=True, pack=packed)
def linears(
    x: Tensor, weights: tuple[Weight, ...], biases: tuple[Tensor | None, ...]
) -> tuple[Tensor, ...]:
    x_MI = _matrix(x)
    out = tuple(x.new_empty(*x.shape[:-1], len(weight)) for weight in weights)
    matrices = list(zip(weights, biases, out, strict=True))
    for each in dict.fromkeys(rule(weight, x) for weight in weights):
        some = [matrix for matrix in matrices if rule(matrix[0], x) == each]
        values = [value for matrix in some for value in _matrix_values(*matrix)]
        name = "linear" if each == -1 else "quantized_linear"
        call = native.kernel(name, _INPUT + "q" + _MATRIX * len(some))
        call(*_input_values(x_MI), len(some), *values)
    return out


@ops.gated_linear.implement(supports=_supports_gated, batch_invariant=True, pack=packed)
def gated_linear(
    x: Tensor,
    gate_FI: Weight,
    up_FI: Weight,
    gate_bias_F: Tensor | None = None,
    up_bias_F: Tensor | None = None,
    activation: ops.Activation = "silu",
) -> Tensor:
    x_MI = _matrix(x)
    out = x.new_empty(*x.shape[:-1], len(gate_FI))
    call = _gated if is_panels(gate_FI, x.dtype) else _quantized_gated
    call(
        *_input_values(x_MI),
        ACTIVATIONS[activation],
        *_matrix_values(gate_FI, gate_bias_F, out),
        *_matrix_values(up_FI, up_bias_F, out),
    )
    return out


def _matrix(x: Tensor) -> Tensor:
    """All leading dimensions as rows, each contiguous."""
    x_MI = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
    return x_MI if x_MI.stride(1) == 1 else x_MI.contiguous()


def _input_values(x_MI: Tensor) -> tuple[int, ...]:
    return native.DTYPES[x_MI.dtype], x_MI.data_ptr(), x_MI.stride(0), *x_MI.shape


def _matrix_values(weight: Weight, bias: Tensor | None, out: Tensor) -> Iterator[int]:
    yield from held_values(weight)
    yield from (native.address(bias), out.data_ptr(), len(weight), len(weight))


def held_values(weight: Weight) -> Iterator[int]:
    """The panels, and of few bits what they are."""
    panels, *layout = weight.tensors
    yield from (panels.data_ptr(), native.address(*layout) if layout else 0)
