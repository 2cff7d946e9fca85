"""Attention over pages: visible keys and values are gathered for torch's fused operator.

Single tokens of many requests share one call, padded to the longest; a chunk has a call of its own.
Letters as in `ops.paged_attention`; B requests in a call.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pieria import ops
from pieria.kernels.torch.attention import fused
from pieria.ops import Paging, widen
from pieria.ops.attention import attend, oldest_visible, shares
from pieria.ops.paged_attention import gathered

GATHER_BYTES = 4 * 2**20
"""Keys and values gathered at a time for single tokens: they should still be in the cache when
read.
"""


def _supports(
    q_THK: Tensor, k_cache_PNGK: Tensor, v_cache_PNGV: Tensor, *rest: Any, **options: Any
) -> bool:
    return (
        not options.get("scales")
        and k_cache_PNGK.is_contiguous()
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
    sinks_H: Tensor | None = None,
    scales: tuple[Tensor, ...] = (),
) -> Tensor:
    caches = k_cache_PNGK, v_cache_PNGV
    out_THV = q_THK.new_empty(*q_THK.shape[:2], v_cache_PNGV.shape[3])
    requests = list(zip(paging.queries, paging.contexts, strict=True))
    spans = [context - oldest_visible(context - queries, window) for queries, context in requests]
    starts = list(accumulate(paging.queries, initial=0))
    token_bytes = sum(c[0, 0].numel() * c.element_size() for c in caches)
    for group in groups(paging.queries, spans, GATHER_BYTES // token_bytes):
        if len(group) == 1:
            r = group[0]
            rows, context = slice(starts[r], starts[r + 1]), paging.contexts[r]
            k_SGK, v_SGV = (
                gathered(c, paging.table_RP[r], context - spans[r], context) for c in caches
            )
            if soft_cap is None and sinks_H is None:
                out_THV[rows] = fused(q_THK[rows], k_SGK, v_SGV, scale, window)
            else:
                out_THV[rows] = attend(
                    q_THK[rows], k_SGK, v_SGV, scale, window, soft_cap, sinks_H=sinks_H
                )
        else:
            rows_B = torch.tensor([starts[r] for r in group], device=q_THK.device)
            (k_BSGK, v_BSGV), seen_BS = gather(caches, paging, group, spans)
            out_THV[rows_B] = _single(
                q_THK[rows_B], k_BSGK, v_BSGV, seen_BS, scale, soft_cap, sinks_H
            )
    return out_THV


def groups(queries: Sequence[int], spans: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Every request once: chunks alone, single tokens with others of about their length.

    Longest first, at most `tokens` padded tokens in a group, less than half of a row padding.
    """
    yield from ([r] for r, count in enumerate(queries) if count > 1)
    group: list[int] = []
    for r in sorted((r for r, count in enumerate(queries) if count == 1), key=lambda r: -spans[r]):
        longest = spans[group[0]] if group else 0
        if group and ((len(group) + 1) * longest > tokens or 2 * spans[r] < longest):
            yield group
            group = []
        group.append(r)
    if group:
        yield group


def gather(
    caches: Sequence[Tensor], paging: Paging, group: list[int], spans: Sequence[int]
) -> tuple[list[Tensor], Tensor | None]:
    """The last `spans` tokens of each request, [B, S, ...] of each cache; which those are, [B, S].

    The latter is None if they are all. Shorter requests repeat their own last token, so that
    nothing of another request is ever read.
    """
    device, page_tokens = paging.table_RP.device, caches[0].shape[1]
    longest = max(spans[r] for r in group)
    place_S = torch.arange(longest, device=device)
    span_B1 = torch.tensor([[spans[r]] for r in group], device=device)
    context_B1 = torch.tensor([[paging.contexts[r]] for r in group], device=device)
    position_BS = torch.minimum(context_B1 - span_B1 + place_S, context_B1 - 1)
    pages_BS = paging.table_RP[group].gather(1, position_BS // page_tokens)
    slot_BS = pages_BS * page_tokens + position_BS % page_tokens
    tokens = [
        c.flatten(0, 1).index_select(0, slot_BS.flatten()).view(len(group), -1, *c.shape[2:])
        for c in caches
    ]
    even = all(spans[r] == longest for r in group)
    return tokens, None if even else place_S < span_B1


def _single(
    q_BHK: Tensor,
    k_BSGK: Tensor,
    v_BSGV: Tensor,
    seen_BS: Tensor | None,
    scale: float,
    soft_cap: float | None,
    sinks_H: Tensor | None,
) -> Tensor:
    """One query token for each request; the query heads of a key head share one product."""
    q_BGRK = q_BHK.view(len(q_BHK), k_BSGK.shape[2], -1, q_BHK.shape[2])
    k_BGSK, v_BGSV = k_BSGK.transpose(1, 2), v_BSGV.transpose(1, 2)
    mask_B11S = None if seen_BS is None else seen_BS[:, None, None]
    if soft_cap is None and sinks_H is None:
        mixed_BGRV = F.scaled_dot_product_attention(
            q_BGRK, k_BGSK, v_BGSV, attn_mask=mask_B11S, scale=scale
        )
        return mixed_BGRV.flatten(1, 2)
    scores_BGRS = widen(q_BGRK) * scale @ widen(k_BGSK).transpose(2, 3)
    if soft_cap is not None:
        scores_BGRS = soft_cap * torch.tanh(scores_BGRS / soft_cap)
    if mask_B11S is not None:
        scores_BGRS.masked_fill_(~mask_B11S, float("-inf"))
    sinks_GR1 = None if sinks_H is None else widen(sinks_H).view(*q_BGRK.shape[1:3], 1)
    return (shares(scores_BGRS, sinks_GR1) @ widen(v_BGSV)).flatten(1, 2).to(q_BHK.dtype)
