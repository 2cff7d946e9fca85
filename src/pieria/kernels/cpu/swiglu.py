"""The SiLU-gated unit."""

from torch import Tensor

from pieria import ops
from pieria.kernels.cpu import native

_swiglu = native.kernel("swiglu", "qPPPq")


def _supports(gate_TF: Tensor, up_TF: Tensor) -> bool:
    return (
        gate_TF.dtype == up_TF.dtype
        and gate_TF.dtype in native.DTYPES
        and gate_TF.shape == up_TF.shape
        and gate_TF.is_contiguous()
        and up_TF.is_contiguous()
    )


@ops.swiglu.implement(supports=_supports, batch_invariant=True)
def swiglu(gate_TF: Tensor, up_TF: Tensor) -> Tensor:
    out = gate_TF.new_empty(gate_TF.shape)
    addresses = (x.data_ptr() for x in (gate_TF, up_TF, out))
    _swiglu(native.DTYPES[out.dtype], *addresses, out.numel())
    return out
