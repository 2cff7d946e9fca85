"""Writing keys and values to their pages.

P pages of N tokens, T tokens, G key heads, K and V dimensions of a head.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from pieria.ops.op import Case, Cost, Inputs, nbytes, op


@op
def kv_write(
    k_cache_PNGK: Tensor, v_cache_PNGV: Tensor, k_TGK: Tensor, v_TGV: Tensor, slots_T: Tensor
) -> None:
    """k_cache[slot // N, slot % N] = k for every token, and v the same, in place.

    slots_T: int64, no two equal.
    """
    page_tokens = k_cache_PNGK.shape[1]
    place = slots_T // page_tokens, slots_T % page_tokens
    k_cache_PNGK[place] = k_TGK.to(k_cache_PNGK.dtype)
    v_cache_PNGV[place] = v_TGV.to(v_cache_PNGV.dtype)


kv_write.writes = ("k_cache_PNGK", "v_cache_PNGV")


@kv_write.shapes
def _(
    k_cache_PNGK: Tensor, v_cache_PNGV: Tensor, k_TGK: Tensor, v_TGV: Tensor, slots_T: Tensor
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
) -> Cost:
    written = (
        k_TGK.numel() * k_cache_PNGK.element_size() + v_TGV.numel() * v_cache_PNGV.element_size()
    )
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
    for tokens in (1, 32, 512):
        yield Case(f"{tokens} of 9600x3x64", arguments(600, 16, 3, 64, 64, tokens), bench=True)
