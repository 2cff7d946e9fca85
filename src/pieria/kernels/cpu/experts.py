"""Mixtures of experts, every expert once for all of its tokens."""

from typing import Any

import torch
from torch import Tensor

from pieria import ops
from pieria.kernels.cpu import native, quantized
from pieria.kernels.cpu.linear import ACTIVATIONS, gated_linear, linear, linears
from pieria.kernels.cpu.panels import is_panels, pack
from pieria.kernels.cpu.quantized import Packed
from pieria.ops import Weight
from pieria.ops.experts import Activation, activated, routed

_experts = native.kernel("experts", "qPqPqPqqqqqqqPPPPPPqddP")
_ACTIVATIONS = {**ACTIVATIONS, "clamped": 3}


def _supports(
    x_TD: Tensor,
    weights_TA: Tensor,
    experts_TA: Tensor,
    gate_EFD: Tensor | Weight,
    up_EFD: Tensor | Weight,
    down_EDF: Tensor | Weight,
    *biases: Tensor | None,
    **options: Any,
) -> bool:
    return (
        all(is_panels(stack, x_TD.dtype) for stack in (gate_EFD, up_EFD, down_EDF))
        and all(b is None or (b.dtype == x_TD.dtype and b.is_contiguous()) for b in biases)
        and weights_TA.dtype == torch.float32
        and x_TD.stride(1) == weights_TA.stride(1) == experts_TA.stride(1) == 1
    )


@ops.experts.implement(supports=_supports, batch_invariant=True, pack=pack)
def experts(
    x_TD: Tensor,
    weights_TA: Tensor,
    experts_TA: Tensor,
    gate_EFD: Weight,
    up_EFD: Weight,
    down_EDF: Weight,
    gate_bias_EF: Tensor | None = None,
    up_bias_EF: Tensor | None = None,
    down_bias_ED: Tensor | None = None,
    *,
    activation: Activation,
    limit: float | None = None,
    slope: float | None = None,
    first: int = 0,
    total: int | None = None,
) -> Tensor:
    out_TD = x_TD.new_empty(x_TD.shape)
    _experts(
        *(native.DTYPES[x_TD.dtype], x_TD.data_ptr(), x_TD.stride(0)),
        *(weights_TA.data_ptr(), weights_TA.stride(0)),
        *(experts_TA.data_ptr(), experts_TA.stride(0)),
        *(*experts_TA.shape, x_TD.shape[1], gate_EFD.shape[1], first, len(gate_EFD)),
        *(w.tensors[0].data_ptr() for w in (gate_EFD, up_EFD, down_EDF)),
        *(native.address(b) for b in (gate_bias_EF, up_bias_EF, down_bias_ED)),
        *(_ACTIVATIONS[activation], limit or 0.0, slope or 0.0),
        out_TD.data_ptr(),
    )
    return out_TD


def _supports_quantized(
    x_TD: Tensor,
    weights_TA: Tensor,
    experts_TA: Tensor,
    gate_EFD: Tensor | Weight,
    up_EFD: Tensor | Weight,
    down_EDF: Tensor | Weight,
    *biases: Tensor | None,
    **options: Any,
) -> bool:
    return x_TD.dtype in native.DTYPES and all(
        isinstance(stack, Weight) and isinstance(stack.format, Packed)
        for stack in (gate_EFD, up_EFD, down_EDF)
    )


@ops.experts.implement(supports=_supports_quantized, batch_invariant=True, pack=quantized.pack)
def quantized_experts(
    x_TD: Tensor,
    weights_TA: Tensor,
    experts_TA: Tensor,
    gate_EFD: Weight,
    up_EFD: Weight,
    down_EDF: Weight,
    gate_bias_EF: Tensor | None = None,
    up_bias_EF: Tensor | None = None,
    down_bias_ED: Tensor | None = None,
    *,
    activation: Activation,
    limit: float | None = None,
    slope: float | None = None,
    first: int = 0,
    total: int | None = None,
) -> Tensor:
    """One expert after the other; how many tokens each has is asked, so no step is recorded."""
    gates, ups, downs = (tuple(quantized.matrices(w)) for w in (gate_EFD, up_EFD, down_EDF))

    def row(bias_EX: Tensor | None, expert: int) -> Tensor | None:
        return None if bias_EX is None else bias_EX[expert]

    def network(expert: int, x_ND: Tensor) -> Tensor:
        weights = gates[expert], ups[expert]
        biases = row(gate_bias_EF, expert), row(up_bias_EF, expert)
        if activation == "clamped":
            gate_NF, up_NF = linears(x_ND, weights, biases)
            hidden_NF = activated(gate_NF, up_NF, activation, limit, slope)
        else:
            hidden_NF = gated_linear(x_ND, *weights, *biases, activation=activation)
        return linear(hidden_NF, downs[expert], row(down_bias_ED, expert))

    return routed(x_TD, weights_TA, experts_TA, first, len(gates), network)
