"""Attention over pages, prompt chunks and single tokens in one call."""

from typing import Any

import torch
from torch import Tensor

from pieria import ops
from pieria.kernels.cpu import native
from pieria.ops import Paging

_CACHE = "PqqqqP"
_attend = native.kernel("paged_attention", "qqPqqqqq" + 2 * _CACHE + "PqPPqdqdPP")


def _supports(
    q_THK: Tensor,
    k_cache_PNGK: Tensor,
    v_cache_PNGV: Tensor,
    paging: Paging,
    *,
    scale: float,
    sinks_H: Tensor | None = None,
    scales: tuple[Tensor, ...] = (),
    **options: Any,
) -> bool:
    given = (q_THK, k_cache_PNGK, v_cache_PNGV)
    held = native.ROUNDED if scales else (q_THK.dtype,)
    return (
        q_THK.dtype in native.DTYPES
        and all(x.stride(-1) == 1 for x in given)
        and k_cache_PNGK.dtype == v_cache_PNGV.dtype
        and k_cache_PNGK.dtype in held
        and all(s.dtype == torch.float32 and s.is_contiguous() for s in scales)
        and scale > 0
        and (sinks_H is None or (sinks_H.dtype == q_THK.dtype and sinks_H.is_contiguous()))
        and paging.table_RP.stride(1) == 1
    )


@ops.paged_attention.implement(supports=_supports, batch_invariant=True)
def paged_attention(
    q_THK: Tensor,
    k_cache_PNGK: Tensor,
    v_cache_PNGV: Tensor,
    paging: Paging,
    *,
    scale: float,
    window: int | None = None,
    soft_cap: float | None = None,
    sinks_H: Tensor | None = None,
    scales: tuple[Tensor, ...] = (),
) -> Tensor:
    tokens, heads, _ = q_THK.shape
    _, page_tokens, groups, size = v_cache_PNGV.shape
    out_THV = q_THK.new_empty(tokens, heads, size)
    _attend(
        native.DTYPES[q_THK.dtype],
        native.ROUNDED[k_cache_PNGK.dtype] if scales else 0,
        q_THK.data_ptr(),
        q_THK.stride(0),
        q_THK.stride(1),
        heads,
        groups,
        page_tokens,
        *_cache_values(k_cache_PNGK),
        native.address(scales[0] if scales else None),
        *_cache_values(v_cache_PNGV),
        native.address(scales[1] if scales else None),
        paging.table_RP.data_ptr(),
        paging.table_RP.stride(0),
        paging.query_starts_R1.data_ptr(),
        paging.contexts_R.data_ptr(),
        len(paging.table_RP),
        scale,
        window or 0,
        soft_cap or 0.0,
        native.address(sinks_H),
        out_THV.data_ptr(),
    )
    return out_THV


def _cache_values(cache: Tensor) -> tuple[int, ...]:
    return cache.data_ptr(), *cache.stride()[:3], cache.shape[3]
