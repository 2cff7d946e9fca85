"""Drawing without sorting the vocabulary: the few likeliest tokens nearly always suffice.

Letters as in `ops.sample`; S of its rows.
"""

from dataclasses import replace

import torch
from torch import Tensor

from pieria import ops
from pieria.ops import Draws
from pieria.ops.op import widen
from pieria.ops.sample import adjusted, drawn, gumbel, leading, scale
from pieria.ops.token_logprobs import most_likely

CANDIDATES = (128, 2048)
"""How many likeliest tokens are looked at: first, and where those do not suffice."""


@ops.sample.implement(batch_invariant=True)
def sample(logits_RV: Tensor, draws: Draws) -> Tensor:
    finite_R = torch.isfinite(widen(logits_RV).amax(-1))
    return torch.where(finite_R, _drawn(adjusted(logits_RV, draws), draws), -1)


def _drawn(logits_RV: Tensor, draws: Draws) -> Tensor:
    tokens_R = logits_RV.argmax(-1)
    temperature_R = draws.temperature_R
    if temperature_R is None:
        return tokens_R
    draws = replace(draws, bias=None, history=None)
    limited_R = torch.zeros_like(tokens_R, dtype=torch.bool)
    if draws.top_k_R is not None:
        limited_R |= draws.top_k_R > 0
    if draws.top_p_R is not None:
        limited_R |= draws.top_p_R < 1
    warm_R = temperature_R > 0
    for row_1 in (warm_R & ~limited_R).nonzero():
        min_p_1 = None if draws.min_p_R is None else draws.min_p_R[row_1]
        scaled_1V = scale(logits_RV[row_1], temperature_R[row_1])
        tokens_R[row_1] = _among_all(scaled_1V, draws.keys_R[row_1], min_p_1)
    rows_S = (warm_R & limited_R).nonzero().flatten()
    for count in CANDIDATES:
        if len(rows_S) > 0:
            drawn_S, certain_S = _among_likeliest(count, logits_RV[rows_S], draws.select(rows_S))
            tokens_R[rows_S[certain_S]] = drawn_S[certain_S]
            rows_S = rows_S[~certain_S]
    if len(rows_S) > 0:
        tokens_R[rows_S] = drawn(logits_RV[rows_S], draws.select(rows_S))
    return tokens_R


def _among_all(scaled_1V: Tensor, key_1: Tensor, min_p_1: Tensor | None) -> Tensor:
    """A row without top_k and top_p, alone: what one step leaves is in the cache for the next."""
    if min_p_1 is not None:
        least_11 = scaled_1V.max(-1, keepdim=True).values + min_p_1.double().log()[:, None]
        scaled_1V = scaled_1V.masked_fill(scaled_1V < least_11, float("-inf"))
    tokens_V = torch.arange(scaled_1V.shape[1], device=scaled_1V.device)
    return (scaled_1V + gumbel(key_1, tokens_V)).argmax(-1)


def _among_likeliest(count: int, logits_SV: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """The tokens drawn from the `count` likeliest, and whether nothing beyond those is allowed."""
    assert draws.temperature_R is not None
    whole = count >= logits_SV.shape[1]
    logits_SC, tokens_SC = most_likely(logits_SV, min(count, logits_SV.shape[1]))
    scaled_SC = scale(logits_SC, draws.temperature_R)
    least_S1 = torch.full_like(scaled_SC[:, :1], float("-inf"))
    if draws.min_p_R is not None:
        least_S1 = scaled_SC[:, :1] + draws.min_p_R.double().log()[:, None]
    endless_S = torch.ones_like(draws.keys_R, dtype=torch.bool)
    if draws.top_k_R is not None:
        endless_S = draws.top_k_R <= 0
    rest_S1 = torch.zeros_like(least_S1)
    if draws.top_p_R is not None and not whole:
        for row_1 in (endless_S & (draws.top_p_R < 1)).nonzero():
            scaled_1V = scale(logits_SV[row_1], draws.temperature_R[row_1])
            largest_11, least_11 = scaled_SC[row_1, :1], least_S1[row_1]
            rest_S1[row_1] = _weight(scaled_1V, largest_11, least_11) - _weight(
                scaled_SC[row_1], largest_11, least_11
            )
    scaled_SC = scaled_SC.masked_fill(scaled_SC < least_S1, float("-inf"))
    kept_SC = leading(scaled_SC, draws, rest_S1) & (scaled_SC > float("-inf"))
    scaled_SC = scaled_SC.masked_fill(~kept_SC, float("-inf"))
    best_S = (scaled_SC + gumbel(draws.keys_R, tokens_SC)).argmax(-1)
    certain_S = endless_S & ~kept_SC[:, -1]
    if whole:
        certain_S = torch.ones_like(endless_S)
    elif draws.top_k_R is not None:
        certain_S = certain_S | (~endless_S & (draws.top_k_R <= count))
    return tokens_SC.gather(1, best_S[:, None])[:, 0], certain_S


def _weight(scaled_SV: Tensor, largest_S1: Tensor, least_S1: Tensor) -> Tensor:
    """Sum of exp(scaled - largest) over what is not below `least`."""
    weight_SV = (scaled_SV - largest_S1).exp().masked_fill(scaled_SV < least_S1, 0)
    return weight_SV.sum(-1, keepdim=True)
