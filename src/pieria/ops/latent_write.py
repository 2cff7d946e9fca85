"""Writing latents to their pages.

P pages of N tokens, T tokens, C dimensions of a latent that are its value and K that are only key,
L = C + K.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pieria.ops.kv_write import rounded
from pieria.ops.op import Case, Cost, Inputs, nbytes, op


@op
def latent_write(
    cache_PNL: Tensor,
    value_TC: Tensor,
    key_TK: Tensor,
    slots_T: Tensor,
    scales: tuple[Tensor, ...] = (),
) -> None:
    """cache[slot // N, slot % N] = value beside key for every token, in place.

    slots_T: int64, no two equal. scales: one, [P, N] in float32, for a cache of a dtype in which
    `kv_write` rounds: a latent is rounded as a head is there.
    """
    page_tokens = cache_PNL.shape[1]
    place = slots_T // page_tokens, slots_T % page_tokens
    latent_TL = torch.cat([value_TC, key_TK], -1)
    for scale_PN in scales:
        latent_TL, scale_T = rounded(latent_TL, cache_PNL.dtype)
        scale_PN[place] = scale_T.to(scale_PN.dtype)
    cache_PNL[place] = latent_TL.to(cache_PNL.dtype)


latent_write.writes = ("cache_PNL", "scales")


@latent_write.shapes
def _(
    cache_PNL: Tensor,
    value_TC: Tensor,
    key_TK: Tensor,
    slots_T: Tensor,
    scales: tuple[Tensor, ...] = (),
) -> None:
    return None


@latent_write.cost
def _(
    out: None,
    cache_PNL: Tensor,
    value_TC: Tensor,
    key_TK: Tensor,
    slots_T: Tensor,
    scales: tuple[Tensor, ...] = (),
) -> Cost:
    written = len(slots_T) * nbytes(*(held[0, 0] for held in (cache_PNL, *scales)))
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
    _, *given = arguments(5, 4, 16, 8, 11)
    held = torch.zeros(5, 4, 24, dtype=torch.int8, device=make.device)
    yield Case("int8", (held, *given, (torch.zeros(5, 4, device=make.device),)))
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
