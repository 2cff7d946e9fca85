"""A limit that values near smoothly."""

import torch
from torch import Tensor

from pieria import ops
from pieria.kernels.cpu import native

_soft_cap = native.kernel("soft_cap", "qPPqd")


def _supports(x: Tensor, cap: float) -> bool:
    return x.dtype in native.DTYPES and x.is_contiguous()


@ops.soft_cap.implement(supports=_supports, batch_invariant=True)
def soft_cap(x: Tensor, cap: float) -> Tensor:
    out = torch.empty_like(x)
    _soft_cap(native.DTYPES[x.dtype], x.data_ptr(), out.data_ptr(), x.numel(), cap)
    return out
