"""Rows of a table that is held in panels."""

from typing import Any

from torch import Tensor

from pieria import ops
from pieria.kernels.cpu import native, quantized
from pieria.kernels.cpu.linear import packed
from pieria.kernels.cpu.panels import is_panels
from pieria.kernels.cpu.quantized import Packed
from pieria.ops import Weight

_embedding = native.kernel("embedding", "qPPPqqqqd")


def _supports(tokens_T: Tensor, weight_VD: Tensor | Weight, *rest: Any, **options: Any) -> bool:
    held = is_panels(weight_VD, weight_VD.dtype) or (
        isinstance(weight_VD, Weight) and isinstance(weight_VD.format, Packed)
    )
    return held and tokens_T.is_contiguous()


@ops.embedding.implement(supports=_supports, batch_invariant=True, pack=packed)
def embedding(
    tokens_T: Tensor, weight_VD: Weight, first: int = 0, scale: float | None = None
) -> Tensor:
    if isinstance(weight_VD.format, Packed):
        return quantized.rows(weight_VD, tokens_T, weight_VD.dtype, first, scale or 0.0)
    (panels,) = weight_VD.tensors
    rows, columns = weight_VD.shape
    out = panels.new_empty(*tokens_T.shape, columns)
    _embedding(
        *(native.DTYPES[panels.dtype], tokens_T.data_ptr(), panels.data_ptr(), out.data_ptr()),
        *(tokens_T.numel(), rows, columns, first, scale or 0.0),
    )
    return out
