"""Attention over latents in pages, the same code for chunks of a prompt and for single tokens."""

import torch
from torch import Tensor

from pieria import ops
from pieria.kernels.cpu import native
from pieria.ops import Paging

_attention = native.kernel("paged_latent_attention", "qqPqqPqqqqqPPqPqPPqdP")


def _supports(
    q_THC: Tensor,
    q_THK: Tensor,
    cache_PNL: Tensor,
    paging: Paging,
    *,
    scale: float,
    scales: tuple[Tensor, ...] = (),
) -> bool:
    return (
        q_THC.dtype in native.DTYPES
        and q_THC.dtype == q_THK.dtype
        and cache_PNL.dtype in (native.ROUNDED if scales else (q_THC.dtype,))
        and all(s.dtype == torch.float32 and s.is_contiguous() for s in scales)
        and q_THC.stride(2) == q_THK.stride(2) == 1
        and cache_PNL.is_contiguous()
    )


@ops.paged_latent_attention.implement(supports=_supports, batch_invariant=True)
def paged_latent_attention(
    q_THC: Tensor,
    q_THK: Tensor,
    cache_PNL: Tensor,
    paging: Paging,
    *,
    scale: float,
    scales: tuple[Tensor, ...] = (),
) -> Tensor:
    out_THC = q_THC.new_empty(q_THC.shape)
    _, heads, rank = q_THC.shape
    _, page_tokens, size = cache_PNL.shape
    _attention(
        *(native.DTYPES[q_THC.dtype], native.ROUNDED[cache_PNL.dtype] if scales else 0),
        *(q_THC.data_ptr(), q_THC.stride(0), q_THC.stride(1)),
        *(q_THK.data_ptr(), q_THK.stride(0), q_THK.stride(1)),
        *(heads, rank, size, cache_PNL.data_ptr()),
        *(native.address(scales[0] if scales else None), page_tokens),
        *(paging.table_RP.data_ptr(), paging.table_RP.stride(0)),
        *(paging.query_starts_R1.data_ptr(), paging.contexts_R.data_ptr()),
        *(len(paging.table_RP), scale, out_THC.data_ptr()),
    )
    return out_THC
