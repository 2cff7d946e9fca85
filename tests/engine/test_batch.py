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
    """(tokens in a page, chunks). No page is twice in any table; some were let go."""
    page_tokens, tables = draw(st.integers(1, 5)), draw(st.integers(1, 2))
    shape = st.tuples(st.integers(0, 12), st.integers(1, 9), st.integers(0, 2))
    shapes = draw(st.lists(shape, min_size=1, max_size=5))
    counts = [-(-(start + length) // page_tokens) + spare for start, length, spare in shapes]
    pages = draw(st.permutations(range(tables * sum(counts) + 3)))
    chunks = []
    for i, ((start, length, _), count) in enumerate(zip(shapes, counts, strict=True)):
        own = []
        for _ in range(tables):
            gone = draw(st.integers(0, start // page_tokens))
            own.append((-1,) * gone + tuple(pages[gone:count]))
            pages = pages[count:]
        tokens = tuple(draw(st.lists(st.integers(0, 2**31), min_size=length, max_size=length)))
        states = draw(st.integers(-1, 3)), 4 + i
        chunks.append(Chunk(str(i), start, tokens, tuple(own), *states))
    return page_tokens, chunks


@settings(max_examples=200, deadline=None, derandomize=True)
@given(plans())
def test_slots_positions_and_paging(plan: tuple[int, list[Chunk]]) -> None:
    page_tokens, chunks = plan
    tokens_T, context = pack(chunks, page_tokens, (), (), "cpu")
    assert tokens_T.dtype == context.positions_T.dtype == torch.int64
    tokens, positions = tokens_T.tolist(), context.positions_T.tolist()
    starts = context.query_starts_R1.tolist()
    assert starts[0] == 0 and starts[-1] == len(tokens)
    assert len(context.slots) == len(context.pagings) == len(chunks[0].tables)
    assert context.state_slots.reads_R.tolist() == [c.reads for c in chunks]
    assert context.state_slots.writes_R.tolist() == [c.writes for c in chunks]
    for i, chunk in enumerate(chunks):
        part = slice(starts[i], starts[i + 1])
        assert tokens[part] == list(chunk.tokens)
        assert positions[part] == list(range(chunk.start, chunk.start + len(chunk.tokens)))
        assert context.state_slots.lengths[i] == len(chunk.tokens)
    for table, (slots_T, paging) in enumerate(zip(context.slots, context.pagings, strict=True)):
        assert slots_T.dtype == torch.int64 and len(slots_T.unique()) == len(tokens)
        assert paging.query_starts_R1.tolist() == starts
        for i, chunk in enumerate(chunks):
            pages, last = chunk.tables[table], chunk.start + len(chunk.tokens)
            # Every place of the request's pages, in order.
            places = [page * page_tokens + at for page in pages for at in range(page_tokens)]
            assert slots_T[starts[i] : starts[i + 1]].tolist() == places[chunk.start : last]
            # As many pages as its tokens need, and any for those that were let go.
            needed = -(-last // page_tokens)
            row = paging.table_RP[i].tolist()
            shown = zip(row[:needed], pages[:needed], strict=True)
            assert all(found == page or page < 0 <= found for found, page in shown)
            assert len(row) >= needed and all(page >= 0 for page in row)
            assert paging.contexts_R[i] == paging.contexts[i] == last
            assert paging.queries[i] == len(chunk.tokens)


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
        # With a window, pages that the first token does not see were let go.
        gone = max(0, start + 1 - config.window) // PAGE_TOKENS if config.window else 0
        chunks = [
            Chunk(
                str(i),
                start,
                (0,) * (min(LENGTHS[i], start + most) - start),
                ((-1,) * gone + pages[i][gone:],),
            )
            for i in live
        ]
        _, context = pack(chunks, PAGE_TOKENS, [(), cache], [None, 0], "cpu")
        rows = torch.cat(
            [
                torch.arange(firsts[i] + c.start, firsts[i] + c.end)
                for i, c in zip(live, chunks, strict=True)
            ]
        )
        assert isinstance(context, Paged)
        found_THK[rows] = context.attend(1, q_THK[rows], k_TGK[rows], v_TGK[rows], config)
    torch.testing.assert_close(found_THK, wanted_THK, rtol=1e-12, atol=1e-12)
