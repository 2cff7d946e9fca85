"""Causal attention over keys and values in pages: prompt chunks and single tokens in one call.

P pages of N tokens, R requests, T query tokens of all of them side by side, H query heads, G key
heads, K and V dimensions of a head. What a query sees is `ops.attention`'s rule.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from struct import Struct
from typing import Any

import torch
from torch import Tensor

from pieria.ops.attention import attend, oldest_visible, visible_pairs
from pieria.ops.kv_write import LARGEST, rounded
from pieria.ops.op import Case, Cost, Inputs, nbytes, op, widen


@dataclass(frozen=True)
class Paging:
    """Where each request's keys and values are, and which of its tokens ask.

    table_RP: pages of each request in order, padded with 0. query_starts_R1: where its queries
    start in the batch, then T. contexts_R: tokens up to its last query, itself included. All int64.
    queries, contexts: the same on the host; query j of request r is its token number
    contexts[r] - queries[r] + j, counted from 0.
    """

    table_RP: Tensor
    query_starts_R1: Tensor
    contexts_R: Tensor
    queries: tuple[int, ...]
    contexts: tuple[int, ...]

    @staticmethod
    def of(
        pages: Sequence[Sequence[int]],
        queries: Sequence[int],
        contexts: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> "Paging":
        """From each request's pages, number of queries and context.

        A negative number stands for a page that no query sees; any page's will do for it.
        """
        width = max(len(p) for p in pages)
        pack = Struct(f"{width}q").pack  # ten times as fast as torch.tensor
        rows = bytearray().join(pack(*row, *[0] * (width - len(row))) for row in pages)
        table_RP = torch.frombuffer(rows, dtype=torch.int64).view(len(pages), width)
        return Paging(
            table_RP.clamp(min=0).to(device),
            torch.tensor(list(accumulate(queries, initial=0)), device=device),
            torch.tensor(contexts, device=device),
            tuple(queries),
            tuple(contexts),
        )

    def token(self, i: int) -> "Paging":
        """The paging of query token i of the batch alone."""
        request = 0
        while i >= self.queries[request]:
            i -= self.queries[request]
            request += 1
        context = self.contexts[request] - self.queries[request] + i + 1
        return Paging(
            self.table_RP[request : request + 1],
            self.query_starts_R1.new_tensor([0, 1]),
            self.contexts_R.new_tensor([context]),
            (1,),
            (context,),
        )


@op
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
    """out_THV: `attention` of each request's queries over its keys and values, in float32 or wider.

    Query j of request r sees keys [0, contexts[r] - queries[r] + j], with `window` only the last
    that many of them. scales: [P, N, G] of keys and of values, which what is in the caches is to be
    multiplied with, as `kv_write` leaves them.
    """
    out = []
    requests = zip(
        torch.split(q_THK, list(paging.queries)), paging.table_RP, paging.contexts, strict=True
    )
    for q_QHK, table_P, context in requests:
        first = oldest_visible(context - len(q_QHK), window)
        k_SGK = gathered(k_cache_PNGK, table_P, first, context)
        v_SGV = gathered(v_cache_PNGV, table_P, first, context)
        if scales:
            k_scale_SG, v_scale_SG = (gathered(s, table_P, first, context) for s in scales)
            wide = widen(q_QHK).dtype
            k_SGK = k_SGK.to(wide) * k_scale_SG.to(wide).unsqueeze(-1)
            v_SGV = v_SGV.to(wide) * v_scale_SG.to(wide).unsqueeze(-1)
        out.append(attend(q_QHK, k_SGK, v_SGV, scale, window, soft_cap, sinks_H=sinks_H))
    return torch.cat(out)


def gathered(cache: Tensor, table_P: Tensor, first: int, last: int) -> Tensor:
    """Tokens [first, last) of one request, side by side, from a cache [pages, page_tokens, ...]."""
    page_tokens = cache.shape[1]
    pages = table_P[first // page_tokens : -(-last // page_tokens)]
    skipped = first // page_tokens * page_tokens
    return cache[pages].flatten(0, 1)[first - skipped : last - skipped]


@paged_attention.shapes
def _(
    q_THK: Tensor, k_cache_PNGK: Tensor, v_cache_PNGV: Tensor, paging: Paging, **options: Any
) -> Tensor:
    return q_THK.new_empty(*q_THK.shape[:2], v_cache_PNGV.shape[3])


@paged_attention.cost
def _(
    out: Tensor,
    q_THK: Tensor,
    k_cache_PNGK: Tensor,
    v_cache_PNGV: Tensor,
    paging: Paging,
    *,
    window: int | None = None,
    sinks_H: Tensor | None = None,
    scales: tuple[Tensor, ...] = (),
    **options: Any,
) -> Cost:
    """Two matrix products without hidden pairs; visible keys and values read once per request."""
    requests = list(zip(paging.queries, paging.contexts, strict=True))
    pairs = sum(visible_pairs(q, s, window) for q, s in requests)
    seen = sum(s - oldest_visible(s - q, window) for q, s in requests)
    token_bytes = nbytes(*(held[0, 0] for held in (k_cache_PNGK, v_cache_PNGV, *scales)))
    return Cost(
        2 * q_THK.shape[1] * (q_THK.shape[2] + out.shape[2]) * pairs,
        nbytes(q_THK, sinks_H, out) + seen * token_bytes,
    )


@paged_attention.row
def _(
    i: int, q_THK: Tensor, k_cache: Tensor, v_cache: Tensor, paging: Paging, **options: Any
) -> tuple[Any, ...]:
    return q_THK[i : i + 1], k_cache, v_cache, paging.token(i)


def falling_pages(contexts: Sequence[int], page_tokens: int) -> list[list[int]]:
    """Pages for the requests of a case, each one's in falling order.

    Page 0 pads the table and is nobody's.
    """
    counts = [-(-context // page_tokens) for context in contexts]
    ends = [sum(counts[: r + 1]) for r in range(len(counts))]
    return [list(range(e, e - n, -1)) for e, n in zip(ends, counts, strict=True)]


@paged_attention.cases
def _(make: Inputs) -> Iterator[Case]:
    def case(
        name: str,
        queries: tuple[int, ...],
        contexts: tuple[int, ...],
        sizes: tuple[int, int, int, int] = (9, 3, 64, 64),
        page_tokens: int = 16,
        bench: bool = False,
        sinks: bool = False,
        held: torch.dtype | None = None,
        **options: Any,
    ) -> Case:
        heads, groups, k_size, v_size = sizes
        if sinks:
            options["sinks_H"] = make.normal(heads)
        owned = falling_pages(contexts, page_tokens)
        pages = 1 + sum(map(len, owned))
        caches = tuple(make.normal(pages, page_tokens, groups, size) for size in (k_size, v_size))
        if held is not None:
            (k, k_scale), (v, v_scale) = (rounded(c, held) for c in caches)
            caches, options["scales"] = (k, v), (k_scale, v_scale)
        arguments = (
            make.normal(sum(queries), heads, k_size),
            *caches,
            Paging.of(owned, queries, contexts, make.device),
        )
        keywords = {"scale": k_size**-0.5, **options}
        return Case(name, arguments, keywords, max(k_size, *contexts), bench)

    yield case("one", (1,), (1,), (2, 1, 4, 4), 2)
    yield case("single tokens", (1, 1, 1, 1), (5, 33, 16, 1))
    yield case("single tokens, window", (1, 1, 1), (40, 3, 17), (4, 2, 16, 16), 4, window=8)
    yield case("single tokens, soft cap", (1, 1), (40, 3), (4, 2, 16, 16), 4, soft_cap=1.5)
    yield case("chunks", (7, 20), (7, 51), (4, 2, 32, 32), 8)
    yield case("mix", (1, 12, 1, 5), (30, 30, 9, 5))
    yield case("mix, window", (1, 12, 1, 9), (30, 30, 9, 40), (4, 4, 16, 16), 4, window=6)
    yield case("mix, soft cap", (1, 12, 1), (30, 30, 9), (4, 1, 16, 16), 4, soft_cap=1.5)
    yield case("mix, sinks", (1, 12, 1), (30, 30, 25), (6, 2, 16, 16), 4, sinks=True, window=9)
    for held in LARGEST:
        name, sizes = f"mix, {str(held)[6:]}", (4, 2, 24, 40)
        yield case(name, (1, 12, 1), (30, 30, 9), sizes, 4, held=held, window=20, sinks=True)
    yield case("narrow values", (3, 1), (9, 20), (4, 2, 24, 8), 4)
    for requests in (1, 32):
        yield case(f"{requests} of 200", (1,) * requests, (200,) * requests, bench=True)
    yield case("32 of 2000", (1,) * 32, (2000,) * 32, bench=True)
    yield case("1 of 32768", (1,), (32768,), bench=True)
    yield case("1 of 32768, 16 heads of 128", (1,), (32768,), (16, 8, 128, 128), bench=True)
    for held in LARGEST:
        yield case(f"1 of 32768, {str(held)[6:]}", (1,), (32768,), held=held, bench=True)
    yield case("512 of 512", (512,), (512,), bench=True)
    yield case("512 of 4096", (512,), (4096,), bench=True)
    yield case("512 of 4096, 16 heads of 128", (512,), (4096,), (16, 8, 128, 128), bench=True)
