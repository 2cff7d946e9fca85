"""Numbers in another format."""

import torch
from torch import Tensor

from pieria import ops
from pieria.kernels.cpu import native

_cast = native.kernel("cast", "qqPPq")


def _supports(x: Tensor, dtype: torch.dtype) -> bool:
    return x.dtype in native.DTYPES and dtype in native.DTYPES and x.is_contiguous()


@ops.cast.implement(supports=_supports, batch_invariant=True)
def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    if x.dtype == dtype:
        return x
    out = x.new_empty(x.shape, dtype=dtype)
    _cast(native.DTYPES[x.dtype], native.DTYPES[dtype], x.data_ptr(), out.data_ptr(), x.numel())
    return out
