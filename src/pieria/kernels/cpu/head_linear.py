"""Products with a packed weight of each head's own."""

from torch import Tensor

from pieria import ops
from pieria.kernels.cpu import native
from pieria.kernels.cpu.panels import is_panels, pack
from pieria.ops import Weight

_head_linear = native.kernel("head_linear", "qPqqqqqqPP")


def _supports(x_THI: Tensor, weight_HOI: Tensor | Weight) -> bool:
    return is_panels(weight_HOI, x_THI.dtype) and x_THI.stride(2) == 1


@ops.head_linear.implement(supports=_supports, batch_invariant=True, pack=pack)
def head_linear(x_THI: Tensor, weight_HOI: Weight) -> Tensor:
    out_THO = x_THI.new_empty(*x_THI.shape[:2], weight_HOI.shape[1])
    _head_linear(
        *(native.DTYPES[x_THI.dtype], x_THI.data_ptr(), x_THI.stride(0), x_THI.stride(1)),
        *(*x_THI.shape, weight_HOI.shape[1]),
        *(weight_HOI.tensors[0].data_ptr(), out_THO.data_ptr()),
    )
    return out_THO
