"""What a sigmoid lets through."""

from torch import Tensor

from pieria import ops
from pieria.kernels.cpu import native

_sigmoid_gate = native.kernel("sigmoid_gate", "qPqPqPqqq")


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
