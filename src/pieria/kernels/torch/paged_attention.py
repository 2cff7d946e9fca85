"""Attention over pages: visible keys and values are gathered, then torch's fused operator reads
them.

Single tokens of many requests share one call, padded to the longest; a chunk has a call of its own.
Letters as in `ops.paged_attention`; B requests in a call.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pieria import ops
from pieria.kernels.torch.attention import fused
from pieria.ops import Paging, widen
from pieria.ops.attention import attend, oldest_visible
from pieria.ops.paged_attention import gathered

GATHER_BYTES = 4 * 2**20
"""Keys and values gathered at a time for single tokens: they should still be in the cache when
read.
"""


def _supports(
    q_THK: Tensor, k_cache_PNGK: Tensor, v_cache_PNGV: Tensor, *rest: Any, **options: Any
) -> bool:
    return (
        k_cache_PNGK.is_contiguous()
        and v_cache_PNGV.is_contiguous()
        and q_THK.dtype == k_cache_PNGK.dtype == v_cache_PNGV.dtype
    )


@ops.paged_attention.implement(supports=_supports)
def paged_attention(
    q_THK: Tensor,
    k_cache_PNGK: Tensor,
    v_cache_PNGV: Tensor,
    paging: Paging,
    *,
    scale: float,
    window: int | None = None,
    soft_cap: float | None = None,
) -> Tensor:
    caches = k_cache_PNGK, v_cache_PNGV
    out_THV = q_THK.new_empty(*q_THK.shape[:2], v_cache_PNGV.shape[3])
    requests = list(zip(paging.queries, paging.contexts, strict=True))
    spans = [context - oldest_visible(context - queries, window) for queries, context in requests]
    singles = [r for r, queries in enumerate(paging.queries) if queries == 1]
    token_bytes = sum(c[0, 0].numel() * c.element_size() for c in caches)
    alone = []
    for group in _groups(singles, spans, GATHER_BYTES // token_bytes):
        if len(group) == 1:
            alone += group
            continue
        rows_B = paging.query_starts_R1[torch.tensor(group, device=q_THK.device)]
        k_BSGK, v_BSGV, seen_BS = _gather(caches, paging, group, spans)
        out_THV[rows_B] = _single(q_THK[rows_B], k_BSGK, v_BSGV, seen_BS, scale, soft_cap)
    start = 0
    for r, (queries, context) in enumerate(requests):
        rows = slice(start, start + queries)
        start += queries
        if queries == 1 and r not in alone:
            continue
        first = context - spans[r]
        k_SGK, v_SGV = (gathered(c, paging.table_RP[r], first, context) for c in caches)
        if queries == 1:
            attended = _single(q_THK[rows], k_SGK[None], v_SGV[None], None, scale, soft_cap)
        elif soft_cap is None:
            attended = fused(q_THK[rows], k_SGK, v_SGV, scale, window)
        else:
            attended = attend(q_THK[rows], k_SGK, v_SGV, scale, window, soft_cap)
        out_THV[rows] = attended
    return out_THV


def _groups(requests: list[int], spans: list[int], tokens: int) -> Iterator[list[int]]:
    """Longest first, at most `tokens` padded tokens in a group, less than half of a row padding."""
    group: list[int] = []
    for r in sorted(requests, key=lambda r: -spans[r]):
        longest = spans[group[0]] if group else 0
        if group and ((len(group) + 1) * longest > tokens or 2 * spans[r] < longest):
            yield group
            group = []
        group.append(r)
    if group:
        yield group


def _gather(
    caches: tuple[Tensor, Tensor], paging: Paging, group: list[int], spans: list[int]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """(k_BSGK, v_BSGV, seen_BS): the visible tokens of each request; seen is None if that is all.

    Shorter requests repeat their own last token, so that nothing of another request is ever read.
    """
    device, page_tokens = paging.table_RP.device, caches[0].shape[1]
    longest = max(spans[r] for r in group)
    place_S = torch.arange(longest, device=device)
    span_B1 = torch.tensor([[spans[r]] for r in group], device=device)
    context_B1 = torch.tensor([[paging.contexts[r]] for r in group], device=device)
    position_BS = torch.minimum(context_B1 - span_B1 + place_S, context_B1 - 1)
    pages_BS = paging.table_RP[group].gather(1, position_BS // page_tokens)
    slot_BS = pages_BS * page_tokens + position_BS % page_tokens
    k_BSGK, v_BSGV = (
        c.flatten(0, 1).index_select(0, slot_BS.flatten()).view(len(group), -1, *c.shape[2:])
        for c in caches
    )
    even = all(spans[r] == longest for r in group)
    return k_BSGK, v_BSGV, None if even else place_S < span_B1


def _single(
    q_BHK: Tensor,
    k_BSGK: Tensor,
    v_BSGV: Tensor,
    seen_BS: Tensor | None,
    scale: float,
    soft_cap: float | None,
) -> Tensor:
    """One query token for each request; the query heads of a key head share one product."""
    q_BGRK = q_BHK.view(len(q_BHK), k_BSGK.shape[2], -1, q_BHK.shape[2])
    k_BGSK, v_BGSV = k_BSGK.transpose(1, 2), v_BSGV.transpose(1, 2)
    mask_B11S = None if seen_BS is None else seen_BS[:, None, None]
    if soft_cap is None:
        mixed_BGRV = F.scaled_dot_product_attention(
            q_BGRK, k_BGSK, v_BGSV, attn_mask=mask_B11S, scale=scale
        )
        return mixed_BGRV.flatten(1, 2)
    scores_BGRS = widen(q_BGRK) * scale @ widen(k_BGSK).transpose(2, 3)
    scores_BGRS = soft_cap * torch.tanh(scores_BGRS / soft_cap)
    if mask_B11S is not None:
        scores_BGRS.masked_fill_(~mask_B11S, float("-inf"))
    return (scores_BGRS.softmax(-1) @ widen(v_BGSV)).flatten(1, 2).to(q_BHK.dtype)
