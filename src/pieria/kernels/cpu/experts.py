"""Mixtures of experts, every expert once for all of its tokens."""

from typing import Any

import torch
from torch import Tensor

from pieria import ops
from pieria.kernels.cpu import native
from pieria.kernels.cpu.linear import ACTIVATIONS, held_values, packed, rule
from pieria.ops import Weight
from pieria.ops.experts import Activation

_experts = native.kernel("experts", "qPqPqPqqqqqqq" + 3 * "PPP" + "qddP")
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
        all(rule(stack, x_TD) is not None for stack in (gate_EFD, up_EFD, down_EDF))
        and all(b is None or (b.dtype == x_TD.dtype and b.is_contiguous()) for b in biases)
        and weights_TA.dtype == torch.float32
        and x_TD.stride(1) == weights_TA.stride(1) == experts_TA.stride(1) == 1
    )


@ops.experts.implement(supports=_supports, batch_invariant=True, pack=packed)
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
    stacks = (gate_EFD, gate_bias_EF), (up_EFD, up_bias_EF), (down_EDF, down_bias_ED)
    _experts(
        *(native.DTYPES[x_TD.dtype], x_TD.data_ptr(), x_TD.stride(0)),
        *(weights_TA.data_ptr(), weights_TA.stride(0)),
        *(experts_TA.data_ptr(), experts_TA.stride(0)),
        *(*experts_TA.shape, x_TD.shape[1], gate_EFD.shape[1], first, len(gate_EFD)),
        *(v for stack, bias in stacks for v in (*held_values(stack), native.address(bias))),
        *(_ACTIVATIONS[activation], limit or 0.0, slope or 0.0),
        out_TD.data_ptr(),
    )
    return out_TD
