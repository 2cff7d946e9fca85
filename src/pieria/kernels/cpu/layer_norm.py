"""Layer norms."""

from torch import Tensor

from pieria import ops
from pieria.kernels.cpu import native

_layer_norm = native.kernel("layer_norm", "qPPPPqqd")


def _supports(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> bool:
    given = x, weight, bias
    return x.dtype in native.DTYPES and all(t.dtype == x.dtype and t.is_contiguous() for t in given)


@ops.layer_norm.implement(supports=_supports, batch_invariant=True)
def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    out = x.new_empty(x.shape)
    columns = x.shape[-1]
    _layer_norm(
        *(native.DTYPES[x.dtype], x.data_ptr(), weight.data_ptr(), bias.data_ptr()),
        *(out.data_ptr(), x.numel() // columns, columns, eps),
    )
    return out
