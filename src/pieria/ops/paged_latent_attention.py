"""Causal attention over latents in pages: prompt chunks and single tokens in one call.

P pages of N tokens, T query tokens of all requests side by side, K dimensions of a latent that are
only key, L = C + K; else letters and meaning as in `ops.latent_attention`.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pieria.ops.attention import visible_pairs
from pieria.ops.kv_write import LARGEST, rounded
from pieria.ops.latent_attention import attend_latents
from pieria.ops.op import Case, Cost, Inputs, nbytes, op, widen
from pieria.ops.paged_attention import Paging, falling_pages, gathered


@op
def paged_latent_attention(
    q_THC: Tensor,
    q_THK: Tensor,
    cache_PNL: Tensor,
    paging: Paging,
    *,
    scale: float,
    scales: tuple[Tensor, ...] = (),
) -> Tensor:
    """out_THC: `latent_attention` of each request's queries over its latents, in float32 or wider.

    A query is q_THC beside q_THK. Query j of request r sees tokens
    [0, contexts[r] - queries[r] + j]. scales: one, [P, N], which latents are to be multiplied with,
    as `latent_write` leaves it.
    """
    q_THL, rank = torch.cat([q_THC, q_THK], -1), q_THC.shape[2]
    out = []
    requests = zip(
        torch.split(q_THL, list(paging.queries)), paging.table_RP, paging.contexts, strict=True
    )
    for q_QHL, table_P, context in requests:
        latent_SL = gathered(cache_PNL, table_P, 0, context)
        for scale_PN in scales:
            wide = widen(q_QHL).dtype
            latent_SL = latent_SL.to(wide) * gathered(scale_PN, table_P, 0, context)[:, None]
        out.append(attend_latents(q_QHL, latent_SL, rank, scale))
    return torch.cat(out)


@paged_latent_attention.shapes
def _(q_THC: Tensor, *rest: Any, **options: Any) -> Tensor:
    return torch.empty_like(q_THC, memory_format=torch.contiguous_format)


@paged_latent_attention.cost
def _(
    out: Tensor,
    q_THC: Tensor,
    q_THK: Tensor,
    cache_PNL: Tensor,
    paging: Paging,
    *,
    scales: tuple[Tensor, ...] = (),
    **options: Any,
) -> Cost:
    """Two matrix products without hidden pairs; latents read once per request."""
    requests = zip(paging.queries, paging.contexts, strict=True)
    pairs = sum(visible_pairs(q, s, None) for q, s in requests)
    token_bytes = nbytes(*(held[0, 0] for held in (cache_PNL, *scales)))
    return Cost(
        2 * q_THC.shape[1] * (cache_PNL.shape[2] + q_THC.shape[2]) * pairs,
        nbytes(q_THC, q_THK, out) + sum(paging.contexts) * token_bytes,
    )


@paged_latent_attention.row
def _(
    i: int, q_THC: Tensor, q_THK: Tensor, cache_PNL: Tensor, paging: Paging, **options: Any
) -> tuple[Any, ...]:
    return q_THC[i : i + 1], q_THK[i : i + 1], cache_PNL, paging.token(i)


@paged_latent_attention.cases
def _(make: Inputs) -> Iterator[Case]:
    def case(
        name: str,
        queries: tuple[int, ...],
        contexts: tuple[int, ...],
        sizes: tuple[int, int, int] = (4, 40, 32),
        page_tokens: int = 16,
        bench: bool = False,
        held: torch.dtype | None = None,
    ) -> Case:
        heads, size, rank = sizes
        owned = falling_pages(contexts, page_tokens)
        cache = make.normal(1 + sum(map(len, owned)), page_tokens, size)
        keywords: dict[str, Any] = {"scale": size**-0.5}
        if held is not None:
            cache, scale = rounded(cache, held)
            keywords["scales"] = (scale,)
        arguments = (
            make.normal(sum(queries), heads, rank),
            make.normal(sum(queries), heads, size - rank),
            cache,
            Paging.of(owned, queries, contexts, make.device),
        )
        return Case(name, arguments, keywords, max(size, *contexts), bench)

    yield case("one", (1,), (1,), (2, 6, 4), 2)
    yield case("single tokens", (1, 1, 1, 1), (5, 33, 16, 1))
    yield case("chunks", (7, 20), (7, 51), (2, 24, 16), 8)
    yield case("mix", (1, 12, 1, 5), (30, 30, 9, 5))
    for held in LARGEST:
        yield case(f"mix, {str(held)[6:]}", (1, 12, 1), (30, 30, 9), held=held)
    sizes = (16, 576, 512)
    for requests in (1, 32):
        yield case(f"{requests} of 200", (1,) * requests, (200,) * requests, sizes, bench=True)
    yield case("32 of 2000", (1,) * 32, (2000,) * 32, sizes, bench=True)
    yield case("512 of 512", (512,), (512,), sizes, bench=True)
    yield case("512 of 4096", (512,), (4096,), sizes, bench=True)
