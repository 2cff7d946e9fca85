"""Writing latents to their pages.

P pages of N tokens, T tokens, C dimensions of a latent that are its value and K that are only key,
L = C + K.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pieria.ops.op import Case, Cost, Inputs, nbytes, op


@op
def latent_write(cache_PNL: Tensor, value_TC: Tensor, key_TK: Tensor, slots_T: Tensor) -> None:
    """cache[slot // N, slot % N] = value beside key for every token, in place.

    slots_T: int64, no two equal.
    """
    page_tokens = cache_PNL.shape[1]
    latent_TL = torch.cat([value_TC, key_TK], -1).to(cache_PNL.dtype)
    cache_PNL[slots_T // page_tokens, slots_T % page_tokens] = latent_TL


latent_write.writes = ("cache_PNL",)


@latent_write.shapes
def _(cache_PNL: Tensor, value_TC: Tensor, key_TK: Tensor, slots_T: Tensor) -> None:
    return None


@latent_write.cost
def _(out: None, cache_PNL: Tensor, value_TC: Tensor, key_TK: Tensor, slots_T: Tensor) -> Cost:
    written = len(slots_T) * nbytes(cache_PNL[0, 0])
    return Cost(bytes=nbytes(value_TC, key_TK, slots_T) + written)


@latent_write.cases
def _(make: Inputs) -> Iterator[Case]:
    def arguments(
        pages: int, page_tokens: int, rank: int, rest: int, tokens: int
    ) -> tuple[Any, ...]:
        return (
            make.normal(pages, page_tokens, rank + rest),
            make.normal(tokens, rank),
            make.normal(tokens, rest),
            make.permutation(pages * page_tokens)[:tokens],
        )

    yield Case("one", arguments(1, 1, 3, 1, 1))
    yield Case("some", arguments(5, 4, 16, 8, 11))
    yield Case("all", arguments(3, 16, 4, 2, 48))
    views = make.normal(9, 24)
    arguments_of_views = (
        make.normal(4, 4, 24),
        views[:, :16],
        views[:, 16:],
        make.permutation(16)[:9],
    )
    yield Case("views", arguments_of_views)
    for tokens in (1, 32, 512):
        yield Case(f"{tokens} of 9600x576", arguments(600, 16, 512, 64, tokens), bench=True)
