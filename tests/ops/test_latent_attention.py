"""Attention over latents, packed and in pages, against a loop over tokens, and what it costs."""

import importlib
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pieria import ops
from pieria.ops import Op, Paging
from tests.ops.harness import case_names, case_of, check_flops, check_saved, only
from tests.ops.test_attention import naive, random

ops.load("torch")
kernel = importlib.import_module("pieria.kernels.torch.paged_latent_attention")
attention_module = importlib.import_module("pieria.ops.attention")

SIZE, RANK, SCALE = 6, 4, 0.4
BACKENDS = [(), ("torch",)]


def loop(q_QHL: Tensor, latent_SL: Tensor) -> Tensor:
    """The last Q of S tokens, one token and head at a time."""
    latent_S1L = latent_SL[:, None]
    return naive(q_QHL, latent_S1L, latent_S1L[..., :RANK], SCALE, None, None)


@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=4).map(tuple),
    heads=st.integers(1, 4),
    block=st.sampled_from([1, 16, 100, 2**24]),
)
@settings(max_examples=40, deadline=None)
def test_attention_is_the_loop_over_tokens(
    lengths: tuple[int, ...], heads: int, block: int
) -> None:
    q_THL, latent_TL = random(sum(lengths), heads, SIZE), random(sum(lengths), SIZE)
    parts = zip(*(torch.split(x, list(lengths)) for x in (q_THL, latent_TL)), strict=True)
    want = torch.cat([loop(*part) for part in parts])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_module, "BLOCK_SCORES", block)
        got = ops.latent_attention(q_THL, latent_TL, lengths, rank=RANK, scale=SCALE)
    torch.testing.assert_close(got, want)


@dataclass(frozen=True)
class Batch:
    """Requests whose latents lie scattered over pages that hold NaN elsewhere."""

    q_THL: Tensor
    cache_PNL: Tensor
    paging: Paging
    want: Tensor

    @staticmethod
    def of(requests: list[tuple[int, int]], heads: int = 3, page_tokens: int = 4) -> "Batch":
        """requests: (queries, context) of each."""
        generator = torch.Generator().manual_seed(len(requests))

        def random(*shape: int) -> Tensor:
            return torch.randn(shape, dtype=torch.float64, generator=generator)

        counts = [-(-context // page_tokens) for _, context in requests]
        order = (1 + torch.randperm(sum(counts), generator=generator)).tolist()
        cache = torch.full((1 + sum(counts), page_tokens, SIZE), torch.nan).double()
        tables, want, q_all = [], [], []
        for (queries, context), count in zip(requests, counts, strict=True):
            pages, order = order[:count], order[count:]
            q, latent = random(queries, heads, SIZE), random(context, SIZE)
            for i in range(context):
                cache[pages[i // page_tokens], i % page_tokens] = latent[i]
            tables.append(pages)
            want.append(loop(q, latent))
            q_all.append(q)
        queries, contexts = zip(*requests, strict=True)
        paging = Paging.of(tables, queries, contexts)
        return Batch(torch.cat(q_all), cache, paging, torch.cat(want))

    def attend(self, backends: tuple[str, ...]) -> Tensor:
        with only(*backends), torch.no_grad():
            return ops.paged_latent_attention(*self.arguments, scale=SCALE)

    @property
    def arguments(self) -> tuple[Tensor, Tensor, Tensor, Paging]:
        q_THC, q_THK = torch.split(self.q_THL, [RANK, SIZE - RANK], -1)
        return q_THC, q_THK, self.cache_PNL, self.paging


@given(
    requests=st.lists(
        st.tuples(st.one_of(st.just(1), st.integers(1, 9)), st.integers(0, 25)).map(
            lambda pair: (pair[0], sum(pair))
        ),
        min_size=1,
        max_size=6,
    ),
    heads=st.integers(1, 3),
    page_tokens=st.sampled_from([1, 2, 5, 16]),
    gather_bytes=st.sampled_from([1, 1000, 2**22]),
)
@settings(max_examples=60, deadline=None)
def test_any_mix_of_requests_is_the_loop_over_tokens(
    requests: list[tuple[int, int]], heads: int, page_tokens: int, gather_bytes: int
) -> None:
    """Every byte that is not a latent of the request itself is NaN."""
    batch = Batch.of(requests, heads, page_tokens)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "GATHER_BYTES", gather_bytes)
        for backends in BACKENDS:
            torch.testing.assert_close(batch.attend(backends), batch.want)


@pytest.mark.parametrize("backends", BACKENDS, ids=["reference", "torch"])
def test_a_request_of_nan_hurts_no_other(backends: tuple[str, ...]) -> None:
    batch = Batch.of([(1, 9), (1, 5), (3, 8), (1, 2)])
    whole = batch.attend(backends)
    batch.cache_PNL[batch.paging.table_RP[0, :3]] = torch.nan
    hurt = batch.attend(backends)
    assert hurt[0].isnan().all()
    assert torch.equal(hurt[1:], whole[1:])


@pytest.mark.parametrize("op", [ops.latent_attention, ops.paged_latent_attention])
def test_blocks_of_one_query_do_nothing_but_the_stated_flops(
    monkeypatch: pytest.MonkeyPatch, op: "Op[..., Tensor]"
) -> None:
    monkeypatch.setattr(attention_module, "BLOCK_SCORES", 1)
    for name in case_names(op):
        check_flops(op, case_of(op, name, torch.float32), exact=True)


@pytest.mark.parametrize("name", case_names(ops.latent_attention))
def test_what_autograd_keeps_is_stated_for_any_blocks(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(attention_module, "BLOCK_SCORES", 64)
    for dtype in (torch.float32, torch.bfloat16):
        check_saved(ops.latent_attention, case_of(ops.latent_attention, name, dtype))


def test_latents_are_read_once() -> None:
    """Not once as keys and once more as values."""
    batch = Batch.of([(1, 30), (4, 9)])
    out = ops.paged_latent_attention.shapes_of(*batch.arguments, scale=SCALE)
    cost = ops.paged_latent_attention.cost_of(out, *batch.arguments, scale=SCALE)
    assert cost.bytes == 8 * (batch.q_THL.numel() + out.numel() + (30 + 9) * SIZE)
    latent_TL = batch.cache_PNL[1, :4]
    q_THL = batch.q_THL[:4]
    options = {"rank": RANK, "scale": SCALE}
    packed = ops.latent_attention.shapes_of(q_THL, latent_TL, (4,), **options)
    cost = ops.latent_attention.cost_of(packed, q_THL, latent_TL, (4,), **options)
    assert cost.bytes == 8 * (q_THL.numel() + packed.numel() + 4 * SIZE)


def test_head_linear_is_one_product_a_head() -> None:
    x_THI, weight_HOI = random(5, 3, 7), random(3, 2, 7)
    want = torch.stack([x_THI[:, h] @ weight_HOI[h].T for h in range(3)], 1)
    torch.testing.assert_close(ops.head_linear(x_THI, weight_HOI), want)
