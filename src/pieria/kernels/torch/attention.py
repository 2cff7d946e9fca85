"""Attention by torch's fused operator, one sequence and one block of queries at a time.

Letters as in `ops.attention`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pieria import ops
from pieria.ops.attention import query_blocks, visible


def _supports(
    q_THK: Tensor,
    *rest: Any,
    soft_cap: float | None = None,
    sinks_H: Tensor | None = None,
    **options: Any,
) -> bool:
    return soft_cap is None and sinks_H is None


@ops.attention.implement(supports=_supports, differentiable=True)
def attention(
    q_THK: Tensor,
    k_TGK: Tensor,
    v_TGV: Tensor,
    lengths: tuple[int, ...],
    *,
    scale: float,
    window: int | None = None,
    soft_cap: float | None = None,
    causal: bool = True,
    sinks_H: Tensor | None = None,
) -> Tensor:
    sequences = zip(*(torch.split(x, list(lengths)) for x in (q_THK, k_TGK, v_TGV)), strict=True)
    return torch.cat([fused(q, k, v, scale, window, causal) for q, k, v in sequences])


def fused(
    q_QHK: Tensor,
    k_SGK: Tensor,
    v_SGV: Tensor,
    scale: float,
    window: int | None,
    causal: bool = True,
) -> Tensor:
    """Attention of the last Q of S tokens of one sequence; heads share keys without copies."""
    (queries, heads, _), (keys, groups, _) = q_QHK.shape, k_SGK.shape
    shared = heads // groups
    q_GRQK = q_QHK.view(queries, groups, shared, -1).permute(1, 2, 0, 3)
    k_GRSK = k_SGK.transpose(0, 1)[:, None].expand(-1, shared, -1, -1)
    v_GRSV = v_SGV.transpose(0, 1)[:, None].expand(-1, shared, -1, -1)
    out = []
    for rows, seen in query_blocks(queries, keys, heads, window, causal):
        whole = window is None and rows == seen == slice(0, keys)
        mask_BS = None
        if causal and not whole and rows.stop - rows.start > 1:
            mask_BS = visible(rows, seen, keys - queries, window, q_QHK.device)
        mixed_GRBV = F.scaled_dot_product_attention(
            q_GRQK[:, :, rows],
            k_GRSK[:, :, seen],
            v_GRSV[:, :, seen],
            attn_mask=mask_BS,
            is_causal=causal and whole,
            scale=scale,
        )
        out.append(mixed_GRBV.permute(2, 0, 1, 3).flatten(1, 2))
    return torch.cat(out)
