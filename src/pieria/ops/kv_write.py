"""Writing keys and values to their pages, as they are or rounded.

P pages of N tokens, T tokens, G key heads, K and V dimensions of a head.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pieria.ops.op import Case, Cost, Inputs, nbytes, op

LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
"""What a cache may hold in place of the numbers themselves, and what the largest of a token and
head becomes.
"""

LEAST = 2.0**-100
"""Where no number is larger, all become 0: the inverse of a scale must be finite."""


def rounded(x_TX: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Numbers [..., X] of a dtype in `LARGEST`, and scales [...] in float32 that they are to be
    multiplied with.

    To the nearest, ties to the even one. The steps are in float32, whatever x is in, so that every
    implementation finds the same. The scale of an infinity or a NaN is NaN.
    """
    x_TX, limit = x_TX.float(), LARGEST[dtype]
    most_T1 = x_TX.abs().amax(-1, keepdim=True)
    inverse_T1 = torch.where(most_T1 > LEAST, torch.full_like(most_T1, limit) / most_T1, 0.0)
    scaled_TX = (x_TX * inverse_T1).nan_to_num(0.0).clamp(-limit, limit)
    codes_TX = (scaled_TX.round() if dtype == torch.int8 else scaled_TX).to(dtype)
    scale_T1 = torch.where(most_T1.isfinite(), most_T1 / limit, torch.nan)
    return codes_TX, scale_T1.squeeze(-1)


@op
def kv_write(
    k_cache_PNGK: Tensor,
    v_cache_PNGV: Tensor,
    k_TGK: Tensor,
    v_TGV: Tensor,
    slots_T: Tensor,
    scales: tuple[Tensor, ...] = (),
) -> None:
    """k_cache[slot // N, slot % N] = k for every token, and v the same, in place.

    slots_T: int64, no two equal. scales: [P, N, G] of keys and of values, in float32, for caches of
    a dtype in `LARGEST`: numbers are `rounded`, and their scales kept there.
    """
    page_tokens = k_cache_PNGK.shape[1]
    place = slots_T // page_tokens, slots_T % page_tokens
    for i, (cache, x_TGX) in enumerate(((k_cache_PNGK, k_TGK), (v_cache_PNGV, v_TGV))):
        if scales:
            codes_TGX, scale_TG = rounded(x_TGX, cache.dtype)
            cache[place] = codes_TGX
            scales[i][place] = scale_TG.to(scales[i].dtype)
        else:
            cache[place] = x_TGX.to(cache.dtype)


kv_write.writes = ("k_cache_PNGK", "v_cache_PNGV", "scales")


@kv_write.shapes
def _(
    k_cache_PNGK: Tensor,
    v_cache_PNGV: Tensor,
    k_TGK: Tensor,
    v_TGV: Tensor,
    slots_T: Tensor,
    scales: tuple[Tensor, ...] = (),
) -> None:
    return None


@kv_write.cost
def _(
    out: None,
    k_cache_PNGK: Tensor,
    v_cache_PNGV: Tensor,
    k_TGK: Tensor,
    v_TGV: Tensor,
    slots_T: Tensor,
    scales: tuple[Tensor, ...] = (),
) -> Cost:
    held = k_cache_PNGK, v_cache_PNGV, *scales
    written = len(slots_T) * nbytes(*(cache[0, 0] for cache in held))
    return Cost(bytes=nbytes(k_TGK, v_TGV, slots_T) + written)


@kv_write.cases
def _(make: Inputs) -> Iterator[Case]:
    def arguments(
        pages: int, page_tokens: int, groups: int, k_size: int, v_size: int, tokens: int
    ) -> tuple[Any, ...]:
        return (
            make.normal(pages, page_tokens, groups, k_size),
            make.normal(pages, page_tokens, groups, v_size),
            make.normal(tokens, groups, k_size),
            make.normal(tokens, groups, v_size),
            make.permutation(pages * page_tokens)[:tokens],
        )

    yield Case("one", arguments(1, 1, 1, 4, 4, 1))
    yield Case("some", arguments(5, 4, 3, 8, 8, 11))
    yield Case("all", arguments(3, 16, 2, 16, 6, 48))
    *caches, k_TGK, v_TGV, slots_T = arguments(5, 4, 3, 40, 16, 11)
    held = (torch.zeros(c.shape, dtype=torch.int8, device=make.device) for c in caches)
    scales = tuple(torch.zeros(c.shape[:3], device=make.device) for c in caches)
    yield Case("int8", (*held, k_TGK, v_TGV, slots_T, scales))
    for tokens in (1, 32, 512):
        yield Case(f"{tokens} of 9600x3x64", arguments(600, 16, 3, 64, 64, tokens), bench=True)
