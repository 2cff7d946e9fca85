"""What is done to each number by itself: gates and caps."""

import torch
from torch import Tensor

from pieria import ops
from pieria.kernels.cpu import native

_sigmoid_gate = native.kernel("sigmoid_gate", "qPqPqPqqq")
_soft_cap = native.kernel("soft_cap", "qPPqd")


def _supports(x_TF: Tensor, gate_TF: Tensor) -> bool:
    return (
        x_TF.dtype == gate_TF.dtype
        and x_TF.dtype in native.DTYPES
        and x_TF.ndim == gate_TF.ndim == 2
        and x_TF.stride(1) == 1
        and (gate_TF.stride(1) == 1 or gate_TF.shape[1] == 1)
    )


@ops.sigmoid_gate.implement(supports=_supports, batch_invariant=True)
def sigmoid_gate(x_TF: Tensor, gate_TF: Tensor) -> Tensor:
    out = x_TF.new_empty(x_TF.shape)
    _sigmoid_gate(
        *(native.DTYPES[x_TF.dtype], x_TF.data_ptr(), x_TF.stride(0)),
        *(gate_TF.data_ptr(), gate_TF.stride(0), out.data_ptr(), *x_TF.shape, gate_TF.shape[1]),
    )
    return out


def _supports_cap(x: Tensor, cap: float) -> bool:
    return x.dtype in native.DTYPES and x.is_contiguous()


@ops.soft_cap.implement(supports=_supports_cap, batch_invariant=True)
def soft_cap(x: Tensor, cap: float) -> Tensor:
    out = torch.empty_like(x)
    _soft_cap(native.DTYPES[x.dtype], x.data_ptr(), out.data_ptr(), x.numel(), cap)
    return out
