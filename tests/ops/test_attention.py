"""What tokens see, against a loop over tokens; blocks of queries; the count of visible pairs."""

import importlib
import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pieria import ops
from pieria.ops.attention import attend, query_blocks, visible_pairs
from tests.ops.harness import case_names, case_of, check_flops, check_saved

module = importlib.import_module("pieria.ops.attention")

WINDOWS = st.one_of(st.none(), st.integers(1, 12))
CAPS = st.sampled_from([None, 0.5, 3.0])


def naive(
    q_QHK: Tensor,
    k_SGK: Tensor,
    v_SGV: Tensor,
    scale: float,
    window: int | None,
    soft_cap: float | None,
    sinks_H: Tensor | None = None,
) -> Tensor:
    """The last Q of S tokens, one token and head at a time."""
    out = q_QHK.new_zeros(*q_QHK.shape[:2], v_SGV.shape[2])
    before = len(k_SGK) - len(q_QHK)
    for j, head in product(range(q_QHK.shape[0]), range(q_QHK.shape[1])):
        group = head * k_SGK.shape[1] // q_QHK.shape[1]
        last = before + j
        first = 0 if window is None else max(0, last + 1 - window)
        scores = k_SGK[first : last + 1, group] @ q_QHK[j, head] * scale
        if soft_cap is not None:
            scores = soft_cap * torch.tanh(scores / soft_cap)
        shares = scores.softmax(0)
        if sinks_H is not None:
            # Of the softmax with one score more, without its share.
            shares = torch.cat([scores, sinks_H[head : head + 1]]).softmax(0)[:-1]
        out[j, head] = shares @ v_SGV[first : last + 1, group]
    return out


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=4).map(tuple),
    groups=st.integers(1, 3),
    shared=st.integers(1, 3),
    sizes=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    window=WINDOWS,
    soft_cap=CAPS,
    sinks=st.booleans(),
    block=st.sampled_from([1, 16, 100, 2**24]),
)
@settings(max_examples=60, deadline=None)
def test_attention_is_the_loop_over_tokens(
    lengths: tuple[int, ...],
    groups: int,
    shared: int,
    sizes: tuple[int, int],
    window: int | None,
    soft_cap: float | None,
    sinks: bool,
    block: int,
) -> None:
    tokens, scale = sum(lengths), 0.3
    q_THK = random(tokens, groups * shared, sizes[0])
    k_TGK, v_TGV = random(tokens, groups, sizes[0]), random(tokens, groups, sizes[1])
    split = [torch.split(x, list(lengths)) for x in (q_THK, k_TGK, v_TGV)]
    options = window, soft_cap, random(groups * shared) if sinks else None
    want = torch.cat([naive(*part, scale, *options) for part in zip(*split, strict=True)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_SCORES", block)
        got = ops.attention(
            q_THK,
            k_TGK,
            v_TGV,
            lengths,
            scale=scale,
            window=window,
            soft_cap=soft_cap,
            sinks_H=options[2],
        )
    torch.testing.assert_close(got, want)


def test_attention_is_torchs() -> None:
    q_THK, k_TGK, v_TGV = random(30, 6, 8), random(30, 2, 8), random(30, 2, 8)
    want = torch.nn.functional.scaled_dot_product_attention(
        *(x.transpose(0, 1)[None] for x in (q_THK, k_TGK, v_TGV)), is_causal=True, enable_gqa=True
    )
    got = ops.attention(q_THK, k_TGK, v_TGV, (30,), scale=1 / math.sqrt(8))
    torch.testing.assert_close(got, want[0].transpose(0, 1))


@pytest.mark.parametrize("backend", [(), ("torch",)], ids=["reference", "torch"])
@pytest.mark.parametrize("block", [1, 200, 2**24])
@pytest.mark.parametrize("soft_cap", [None, 1.5])
def test_attention_both_ways_sees_the_whole_sequence(
    monkeypatch: pytest.MonkeyPatch, backend: tuple[str, ...], block: int, soft_cap: float | None
) -> None:
    monkeypatch.setattr(module, "BLOCK_SCORES", block)
    lengths, scale = (7, 1, 12), 0.3
    q_THK, k_TGK, v_TGV = random(20, 6, 8), random(20, 2, 8), random(20, 2, 5)
    ops.use(*backend)
    got = ops.attention(q_THK, k_TGK, v_TGV, lengths, scale=scale, soft_cap=soft_cap, causal=False)
    ops.use()
    wanted = []
    parts = (torch.split(x, list(lengths)) for x in (q_THK, k_TGK, v_TGV))
    for q, k, v in zip(*parts, strict=True):
        k, v = (x.repeat_interleave(3, 1) for x in (k, v))
        scores = torch.einsum("qhk,shk->hqs", q, k) * scale
        if soft_cap is not None:
            scores = soft_cap * torch.tanh(scores / soft_cap)
        wanted.append(torch.einsum("hqs,shv->qhv", scores.softmax(-1), v))
    torch.testing.assert_close(got, torch.cat(wanted))


@given(st.integers(1, 60), st.integers(0, 60), st.integers(1, 5), WINDOWS, st.integers(1, 200))
@settings(max_examples=200, deadline=None)
def test_blocks_hold_every_query_once_with_the_keys_it_sees(
    queries: int, before: int, heads: int, window: int | None, block: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_SCORES", block)
        blocks = list(query_blocks(queries, before + queries, heads, window))
    assert [j for rows, _ in blocks for j in range(queries)[rows]] == list(range(queries))
    for rows, seen in blocks:
        first, last = before + rows.start, before + rows.stop - 1
        assert seen == slice(0 if window is None else max(0, first - window + 1), last + 1)
        count = rows.stop - rows.start
        assert count == 1 or heads * count * (seen.stop - seen.start) <= block


@given(st.integers(1, 40), st.integers(0, 40), WINDOWS)
def test_pairs_are_counted_as_by_hand(queries: int, before: int, window: int | None) -> None:
    hand = [
        min(p + 1, window) if window is not None else p + 1 for p in range(before, before + queries)
    ]
    assert visible_pairs(queries, before + queries, window) == sum(hand)


class Largest(TorchDispatchMode):
    """The most numbers in any tensor that was made."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.numbers = max(self.numbers, out.numel())
        return out


@pytest.mark.parametrize("window", [None, 40])
def test_a_long_chunk_needs_bounded_memory(
    monkeypatch: pytest.MonkeyPatch, window: int | None
) -> None:
    monkeypatch.setattr(module, "BLOCK_SCORES", 2**13)
    q_QHK, k_SGK, v_SGV = random(500, 4, 2), random(900, 2, 2), random(900, 2, 2)
    with Largest() as largest:
        attend(q_QHK, k_SGK, v_SGV, 1.0, window, None)
    assert largest.numbers <= 2**13


@pytest.mark.parametrize("name", case_names(ops.attention))
def test_what_autograd_keeps_is_stated_for_any_blocks(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(module, "BLOCK_SCORES", 64)
    for dtype in (torch.float32, torch.bfloat16):
        check_saved(ops.attention, case_of(ops.attention, name, dtype))


def test_blocks_of_one_query_do_nothing_but_the_stated_flops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Then no computed score is hidden, and torch counts what the cost states, windows included."""
    monkeypatch.setattr(module, "BLOCK_SCORES", 1)
    for name in case_names(ops.attention):
        check_flops(ops.attention, case_of(ops.attention, name, torch.float32), exact=True)
