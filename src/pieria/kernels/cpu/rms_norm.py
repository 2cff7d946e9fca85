"""Root mean square norms, of a tensor or of the sum of two."""

from typing import Any

import torch
from torch import Tensor

from pieria import ops
from pieria.kernels.cpu import native

_rms_norm = native.kernel("rms_norm", "qPPPPPqqqddq")


def _supports(x: Tensor, weight: Tensor, *rest: Any, **options: Any) -> bool:
    dense = x.is_contiguous() or (x.ndim == 2 and x.stride(1) == 1)
    return x.dtype == weight.dtype and x.dtype in native.DTYPES and dense


def _supports_added(x: Tensor, y: Tensor, weight: Tensor, *rest: Any, **options: Any) -> bool:
    return (
        x.dtype == y.dtype == weight.dtype
        and x.dtype in native.DTYPES
        and x.is_contiguous()
        and y.is_contiguous()
    )


@ops.rms_norm.implement(supports=_supports, batch_invariant=True)
def rms_norm(
    x: Tensor, weight: Tensor, eps: float, eps_outside: bool = False, offset: float = 0.0
) -> Tensor:
    out = x.new_empty(x.shape)
    columns = x.shape[-1]
    stride = columns if x.is_contiguous() else x.stride(0)
    _rms_norm(
        *(native.DTYPES[x.dtype], x.data_ptr(), 0, weight.data_ptr(), 0, out.data_ptr()),
        *(x.numel() // columns, columns, stride, eps, offset, eps_outside),
    )
    return out


@ops.add_rms_norm.implement(supports=_supports_added, batch_invariant=True)
def add_rms_norm(
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    eps: float,
    eps_outside: bool = False,
    offset: float = 0.0,
) -> tuple[Tensor, Tensor]:
    total, out = torch.empty_like(x), torch.empty_like(x)
    columns = x.shape[-1]
    _rms_norm(
        *(native.DTYPES[x.dtype], x.data_ptr(), y.data_ptr(), weight.data_ptr()),
        *(total.data_ptr(), out.data_ptr()),
        *(x.numel() // columns, columns, columns, eps, offset, eps_outside),
    )
    return total, out
