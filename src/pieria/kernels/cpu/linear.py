"""Matrix products with packed weights: one, several of the same input, and two joined by a gate."""

from typing import Any

from torch import Tensor

from pieria import ops
from pieria.kernels.cpu import native
from pieria.kernels.cpu.panels import is_panels, pack
from pieria.ops import Weight

ACTIVATIONS = {"silu": 0, "gelu": 1, "gelu_tanh": 2}
"""The numbers are those of `activation.h`."""

_INPUT = "qPqqq"
_MATRIX = "PPPqq"
_gated = native.kernel("gated_linear", _INPUT + "q" + 2 * _MATRIX)


def _supports(x: Tensor, weight: Tensor | Weight, *rest: Any) -> bool:
    return is_panels(weight, x.dtype)


def _supports_each(x: Tensor, weights: tuple[Tensor | Weight, ...], *rest: Any) -> bool:
    return all(is_panels(weight, x.dtype) for weight in weights)


def _supports_gated(
    x: Tensor, gate: Tensor | Weight, up: Tensor | Weight, *rest: Any, **options: Any
) -> bool:
    return is_panels(gate, x.dtype) and is_panels(up, x.dtype)


@ops.linear.implement(supports=_supports, batch_invariant=True, pack=pack)
def linear(x: Tensor, weight_OI: Weight, bias_O: Tensor | None = None) -> Tensor:
    return linears(x, (weight_OI,), (bias_O,))[0]


@ops.linears.implement(supports=_supports_each, batch_invariant=True, pack=pack)
def linears(
    x: Tensor, weights: tuple[Weight, ...], biases: tuple[Tensor | None, ...]
) -> tuple[Tensor, ...]:
    x_MI = _matrix(x)
    out = tuple(x.new_empty(*x.shape[:-1], len(weight)) for weight in weights)
    matrices = zip(weights, biases, out, strict=True)
    values = [value for matrix in matrices for value in _matrix_values(*matrix)]
    call = native.kernel("linear", _INPUT + "q" + _MATRIX * len(weights))
    call(*_input_values(x_MI), len(weights), *values)
    return out


@ops.gated_linear.implement(supports=_supports_gated, batch_invariant=True, pack=pack)
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
    _gated(
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


def _matrix_values(weight: Weight, bias: Tensor | None, out: Tensor) -> tuple[int, ...]:
    panels = weight.tensors[0].data_ptr()
    return panels, native.address(bias), out.data_ptr(), len(weight), len(weight)
