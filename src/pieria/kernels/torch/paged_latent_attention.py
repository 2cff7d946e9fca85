"""Attention over latents in pages: single tokens of many requests share one call.

They are padded to the longest. A chunk goes the reference's way, which is a few large matrix
products already. Letters as in `ops.paged_latent_attention`; B requests in a call.
"""

from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pieria import ops
from pieria.kernels.torch.paged_attention import GATHER_BYTES, gather, groups
from pieria.ops import Paging
from pieria.ops.latent_attention import attend_latents
from pieria.ops.paged_attention import gathered


def _supports(q_THC: Tensor, q_THK: Tensor, cache_PNL: Tensor, *rest: Any, **options: Any) -> bool:
    same = q_THC.dtype == cache_PNL.dtype
    return same and cache_PNL.is_contiguous() and not options.get("scales")


@ops.paged_latent_attention.implement(supports=_supports)
def paged_latent_attention(
    q_THC: Tensor,
    q_THK: Tensor,
    cache_PNL: Tensor,
    paging: Paging,
    *,
    scale: float,
    scales: tuple[Tensor, ...] = (),
) -> Tensor:
    q_THL, rank = torch.cat([q_THC, q_THK], -1), q_THC.shape[2]
    out_THC = q_THL.new_empty(q_THC.shape)
    starts = list(accumulate(paging.queries, initial=0))
    token_bytes = cache_PNL.shape[2] * cache_PNL.element_size()
    for group in groups(paging.queries, paging.contexts, GATHER_BYTES // token_bytes):
        r = group[0]
        if paging.queries[r] > 1:
            rows = slice(starts[r], starts[r + 1])
            latent_SL = gathered(cache_PNL, paging.table_RP[r], 0, paging.contexts[r])
            out_THC[rows] = attend_latents(q_THL[rows], latent_SL, rank, scale)
        else:
            rows_B = torch.tensor([starts[r] for r in group], device=q_THL.device)
            (latent_BSL,), seen_BS = gather((cache_PNL,), paging, group, paging.contexts)
            out_THC[rows_B] = _single(q_THL[rows_B], latent_BSL, seen_BS, rank, scale)
    return out_THC


def _single(
    q_BHL: Tensor, latent_BSL: Tensor, seen_BS: Tensor | None, rank: int, scale: float
) -> Tensor:
    """One query token for each request.

    The whole latent is the value: torch's fused operator wants keys and values of one size, and the
    rest of it costs less than doing without that operator.
    """
    latent_B1SL = latent_BSL[:, None]
    mask_B11S = None if seen_BS is None else seen_BS[:, None, None]
    mixed_B1HL = F.scaled_dot_product_attention(
        q_BHL[:, None], latent_B1SL, latent_B1SL, attn_mask=mask_B11S, scale=scale
    )
    return mixed_B1HL[:, 0, :, :rank]
