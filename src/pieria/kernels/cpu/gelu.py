"""The Gaussian error linear unit."""

from torch import Tensor

from pieria import ops
from pieria.kernels.cpu import native

_gelu = native.kernel("gelu", "qPPqq")


def _supports(x: Tensor, tanh: bool = False) -> bool:
    return x.dtype in native.DTYPES and x.is_contiguous()


@ops.gelu.implement(supports=_supports, batch_invariant=True)
def gelu(x: Tensor, tanh: bool = False) -> Tensor:
    out = x.new_empty(x.shape)
    _gelu(native.DTYPES[x.dtype], x.data_ptr(), out.data_ptr(), x.numel(), tanh)
    return out
