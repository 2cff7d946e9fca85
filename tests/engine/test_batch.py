"""Plans as tensors, against a computation that walks the pages token by token."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pieria import ops
from pieria.engine.batch import LayerCache, Paged, pack
from pieria.engine.plan import Chunk
from pieria.models.config import AttentionConfig
from pieria.models.context import Packed


@st.composite
def plans(draw: st.DrawFn) -> tuple[int, list[Chunk]]:
    """(tokens in a page, chunks that share no page)."""
    page_tokens = draw(st.integers(1, 5))
    shapes = draw(
        st.lists(
            st.tuples(st.integers(0, 12), st.integers(1, 9), st.integers(0, 2)),
            min_size=1,
            max_size=5,
        )
    )
    counts = [-(-(start + length) // page_tokens) + spare for start, length, spare in shapes]
    pages = draw(st.permutations(range(sum(counts) + 3)))
    chunks = []
    for i, ((start, length, _), count) in enumerate(zip(shapes, counts, strict=True)):
        own, pages = pages[:count], pages[count:]
        tokens = tuple(draw(st.lists(st.integers(0, 2**31), min_size=length, max_size=length)))
        chunks.append(Chunk(str(i), start, tokens, tuple(own)))
    return page_tokens, chunks


@settings(max_examples=200, deadline=None, derandomize=True)
@given(plans())
def test_slots_positions_and_paging(plan: tuple[int, list[Chunk]]) -> None:
    page_tokens, chunks = plan
    tokens_T, context = pack(chunks, page_tokens, (), "cpu")
    assert tokens_T.dtype == context.positions_T.dtype == context.slots_T.dtype == torch.int64
    tokens, positions, slots = (
        t.tolist() for t in (tokens_T, context.positions_T, context.slots_T)
    )
    starts = context.paging.query_starts_R1.tolist()
    assert starts[0] == 0 and starts[-1] == len(tokens)
    assert len(set(slots)) == len(slots)
    for i, chunk in enumerate(chunks):
        part = slice(starts[i], starts[i + 1])
        # Every place of the request's pages, in order.
        places = [page * page_tokens + at for page in chunk.pages for at in range(page_tokens)]
        first, last = chunk.start, chunk.start + len(chunk.tokens)
        assert tokens[part] == list(chunk.tokens)
        assert positions[part] == list(range(first, last))
        assert slots[part] == places[first:last]
        # As many pages as its tokens need; where a longer table reaches, zeros.
        needed = -(-last // page_tokens)
        row = context.paging.table_RP[i].tolist()
        assert row == list(chunk.pages[:needed]) + [0] * (len(row) - needed)
        assert context.paging.contexts_R[i] == context.paging.contexts[i] == last
        assert context.paging.queries[i] == len(chunk.tokens)


LENGTHS = (11, 7, 1, 18)
PAGE_TOKENS = 3


def spread(lengths: Sequence[int], seed: int) -> list[tuple[int, ...]]:
    """Pages for each sequence, mixed."""
    counts = [-(-n // PAGE_TOKENS) for n in lengths]
    pages = random.Random(seed).sample(range(sum(counts) + 2), sum(counts))
    return [tuple(pages[sum(counts[:i]) : sum(counts[: i + 1])]) for i in range(len(counts))]


@pytest.mark.parametrize("options", [{}, {"window": 4}, {"soft_cap": 1.5}, {"kv_heads": 4}])
@pytest.mark.parametrize("most", [1, 4, 100])
def test_attention_in_pieces_is_attention_over_the_whole(
    options: dict[str, float], most: int
) -> None:
    """Sequences that are computed `most` tokens at a time, all side by side."""
    ops.use()
    plain = AttentionConfig(heads=4, kv_heads=2, head_dim=8, rope=None, scale=0.4)
    config = replace(plain, **options)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)

    def normal(heads: int) -> Tensor:
        return torch.randn(sum(LENGTHS), heads, 8, generator=generator, dtype=torch.float64)

    q_THK, k_TGK, v_TGK = normal(4), normal(config.kv_heads), normal(config.kv_heads)
    wanted_THK = Packed.of(LENGTHS).attend(1, q_THK, k_TGK, v_TGK, config)
    pages = spread(LENGTHS, most)
    shape = (1 + max(max(p) for p in pages), PAGE_TOKENS, config.kv_heads, 8)
    # What was never written must never be read.
    cache: LayerCache = tuple(torch.full(shape, torch.nan, dtype=torch.float64) for _ in "kv")
    found_THK = torch.zeros_like(wanted_THK)
    firsts = [sum(LENGTHS[:i]) for i in range(len(LENGTHS))]
    for start in range(0, max(LENGTHS), most):
        live = [i for i, n in enumerate(LENGTHS) if start < n]
        chunks = [
            Chunk(str(i), start, (0,) * (min(LENGTHS[i], start + most) - start), pages[i])
            for i in live
        ]
        _, context = pack(chunks, PAGE_TOKENS, [(), cache], "cpu")
        rows = torch.cat(
            [
                torch.arange(firsts[i] + c.start, firsts[i] + c.end)
                for i, c in zip(live, chunks, strict=True)
            ]
        )
        assert isinstance(context, Paged)
        found_THK[rows] = context.attend(1, q_THK[rows], k_TGK[rows], v_TGK[rows], config)
    torch.testing.assert_close(found_THK, wanted_THK, rtol=1e-12, atol=1e-12)
