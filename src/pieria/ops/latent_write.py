"""Writing latents to their pages.

P pages of N tokens, T tokens, L dimensions of a latent.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from pieria.ops.op import Case, Cost, Inputs, nbytes, op


@op
def latent_write(cache_PNL: Tensor, latent_TL: Tensor, slots_T: Tensor) -> None:
    """cache[slot // N, slot % N] = latent for every token, in place.

    slots_T: int64, no two equal.
    """
    page_tokens = cache_PNL.shape[1]
    cache_PNL[slots_T // page_tokens, slots_T % page_tokens] = latent_TL.to(cache_PNL.dtype)


latent_write.writes = ("cache_PNL",)


@latent_write.shapes
def _(cache_PNL: Tensor, latent_TL: Tensor, slots_T: Tensor) -> None:
    return None


@latent_write.cost
def _(out: None, cache_PNL: Tensor, latent_TL: Tensor, slots_T: Tensor) -> Cost:
    written = latent_TL.numel() * cache_PNL.element_size()
    return Cost(bytes=nbytes(latent_TL, slots_T) + written)


@latent_write.cases
def _(make: Inputs) -> Iterator[Case]:
    def arguments(pages: int, page_tokens: int, size: int, tokens: int) -> tuple[Any, ...]:
        return (
            make.normal(pages, page_tokens, size),
            make.normal(tokens, size),
            make.permutation(pages * page_tokens)[:tokens],
        )

    yield Case("one", arguments(1, 1, 4, 1))
    yield Case("some", arguments(5, 4, 24, 11))
    yield Case("all", arguments(3, 16, 6, 48))
    for tokens in (1, 32, 512):
        yield Case(f"{tokens} of 9600x576", arguments(600, 16, 576, tokens), bench=True)
