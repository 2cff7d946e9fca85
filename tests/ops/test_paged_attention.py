"""Attention over pages, by the reference and by the torch kernel, against a loop over tokens."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pieria import ops
from pieria.ops import Paging
from tests.ops.harness import case_names, case_of, check_flops
from tests.ops.test_attention import CAPS, WINDOWS, naive

ops.load("torch")
kernel = importlib.import_module("pieria.kernels.torch.paged_attention")
reference_module = importlib.import_module("pieria.ops.attention")

FUNCTIONS: list[Callable[..., Tensor]] = [ops.paged_attention.reference, kernel.paged_attention]


@dataclass(frozen=True)
class Batch:
    """Requests whose keys and values lie scattered over pages that hold NaN elsewhere."""

    q_THK: Tensor
    caches: tuple[Tensor, Tensor]
    paging: Paging
    dense: list[tuple[Tensor, Tensor]]

    @staticmethod
    def of(
        requests: list[tuple[int, int]], groups: int, shared: int, page_tokens: int, seed: int
    ) -> "Batch":
        """requests: (queries, context) of each."""
        generator = torch.Generator().manual_seed(seed)

        def random(*shape: int) -> Tensor:
            return torch.randn(shape, dtype=torch.float64, generator=generator)

        counts = [-(-context // page_tokens) for _, context in requests]
        order = (1 + torch.randperm(sum(counts), generator=generator)).tolist()
        k_cache = torch.full((1 + sum(counts), page_tokens, groups, 4), torch.nan).double()
        v_cache = torch.full((1 + sum(counts), page_tokens, groups, 3), torch.nan).double()
        tables, dense = [], []
        for (_, context), count in zip(requests, counts, strict=True):
            pages, order = order[:count], order[count:]
            k, v = random(context, groups, 4), random(context, groups, 3)
            for i in range(context):
                k_cache[pages[i // page_tokens], i % page_tokens] = k[i]
                v_cache[pages[i // page_tokens], i % page_tokens] = v[i]
            tables.append(pages)
            dense.append((k, v))
        queries, contexts = zip(*requests, strict=True)
        q_THK = random(sum(queries), groups * shared, 4)
        return Batch(q_THK, (k_cache, v_cache), Paging.of(tables, queries, contexts), dense)

    def naive(
        self, window: int | None, soft_cap: float | None, sinks_H: Tensor | None = None
    ) -> Tensor:
        parts = torch.split(self.q_THK, list(self.paging.queries))
        return torch.cat(
            [
                naive(q, *kv, 0.4, window, soft_cap, sinks_H)
                for q, kv in zip(parts, self.dense, strict=True)
            ]
        )


REQUESTS = st.lists(
    st.tuples(st.one_of(st.just(1), st.integers(1, 9)), st.integers(0, 25)).map(
        lambda pair: (pair[0], sum(pair))
    ),
    min_size=1,
    max_size=6,
)


@given(
    requests=REQUESTS,
    groups=st.integers(1, 2),
    shared=st.integers(1, 3),
    page_tokens=st.sampled_from([1, 2, 5, 16]),
    window=WINDOWS,
    soft_cap=CAPS,
    sinks=st.booleans(),
    gather_bytes=st.sampled_from([1, 2000, 2**22]),
    block=st.sampled_from([20, 2**24]),
)
@settings(max_examples=80, deadline=None)
def test_any_mix_of_requests_is_the_loop_over_tokens(
    requests: list[tuple[int, int]],
    groups: int,
    shared: int,
    page_tokens: int,
    window: int | None,
    soft_cap: float | None,
    sinks: bool,
    gather_bytes: int,
    block: int,
) -> None:
    """Every byte that is not a visible key or value of the request itself is NaN."""
    batch = Batch.of(requests, groups, shared, page_tokens, seed=len(requests))
    sinks_H = torch.arange(groups * shared).double() if sinks else None
    want = batch.naive(window, soft_cap, sinks_H)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "GATHER_BYTES", gather_bytes)
        patch.setattr(reference_module, "BLOCK_SCORES", block)
        for function in FUNCTIONS:
            got = function(
                batch.q_THK,
                *batch.caches,
                batch.paging,
                scale=0.4,
                window=window,
                soft_cap=soft_cap,
                sinks_H=sinks_H,
            )
            torch.testing.assert_close(got, want)


@pytest.mark.parametrize("function", FUNCTIONS, ids=["reference", "torch"])
@pytest.mark.parametrize("soft_cap", [None, 2.0])
def test_a_request_of_nan_hurts_no_other(
    function: Callable[..., Tensor], soft_cap: float | None
) -> None:
    batch = Batch.of([(1, 9), (1, 5), (3, 8), (1, 2)], 2, 2, 4, seed=0)
    whole = function(batch.q_THK, *batch.caches, batch.paging, scale=0.4, soft_cap=soft_cap)
    for cache in batch.caches:
        cache[batch.paging.table_RP[0, :3]] = torch.nan
    hurt = function(batch.q_THK, *batch.caches, batch.paging, scale=0.4, soft_cap=soft_cap)
    assert hurt[0].isnan().all()
    assert torch.equal(hurt[1:], whole[1:])


def test_a_window_reads_no_page_before_it() -> None:
    batch = Batch.of([(2, 40)], 1, 1, 4, seed=0)
    want = batch.naive(6, None)
    for cache in batch.caches:
        cache[batch.paging.table_RP[0, :8]] = torch.nan
    for function in FUNCTIONS:
        got = function(batch.q_THK, *batch.caches, batch.paging, scale=0.4, window=6)
        torch.testing.assert_close(got, want)


def test_paging_of_one_token() -> None:
    paging = Paging.of([[3, 1], [2], [5, 4]], [2, 1, 3], [7, 2, 8])
    assert paging.table_RP.tolist() == [[3, 1], [2, 0], [5, 4]]
    assert paging.query_starts_R1.tolist() == [0, 2, 3, 6]
    found = [paging.token(i) for i in range(6)]
    assert [p.contexts for p in found] == [(6,), (7,), (2,), (6,), (7,), (8,)]
    assert [p.table_RP[0, 0].item() for p in found] == [3, 3, 2, 5, 5, 5]
    for p in found:
        assert (p.queries, p.contexts_R.tolist()) == ((1,), list(p.contexts))
        assert p.query_starts_R1.tolist() == [0, 1]


def test_blocks_of_one_query_do_nothing_but_the_stated_flops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reference_module, "BLOCK_SCORES", 1)
    for name in case_names(ops.paged_attention):
        case = case_of(ops.paged_attention, name, torch.float32)
        check_flops(ops.paged_attention, case, exact=True)


def test_bytes_are_those_of_what_is_visible() -> None:
    batch = Batch.of([(1, 30), (4, 9)], 2, 1, 4, seed=0)
    out = ops.paged_attention.shapes_of(batch.q_THK, *batch.caches, batch.paging)
    row = 2 * (4 + 3) * 8
    small = (batch.q_THK.numel() + out.numel()) * 8
    arguments = (out, batch.q_THK, *batch.caches, batch.paging)
    assert ops.paged_attention.cost_of(*arguments).bytes == small + (30 + 9) * row
    windowed = ops.paged_attention.cost_of(*arguments, window=3)
    assert windowed.bytes == small + (3 + 6) * row
