"""Attention over whole sequences laid side by side (Vaswani et al. 2017, arXiv:1706.03762).

What a token sees is stated here once, for this op and for attention over pages.
T tokens, H query heads, G key heads, each shared by H/G neighbouring query heads (Ainslie et al.
2023, arXiv:2305.13245), K and V dimensions of a head, Q queries that are the last of S tokens.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pieria.ops.op import Backward, Case, Cost, Inputs, nbytes, op, wide_bytes, widen

BLOCK_SCORES = 2**24
"""Scores computed at a time: 64 MiB in float32."""


@op
def attention(
    q_THK: Tensor,
    k_TGK: Tensor,
    v_TGV: Tensor,
    lengths: tuple[int, ...],
    *,
    scale: float,
    window: int | None = None,
    soft_cap: float | None = None,
    causal: bool = True,
    sinks_H: Tensor | None = None,
) -> Tensor:
    """out_THV: each token's softmax(scale q.k) average of the v it sees, in float32 or wider.

    lengths: tokens of each sequence; they add up to T. A token sees those of its sequence up to
    itself, with `window` only the last that many of them; if not `causal`, all of its sequence.
    soft_cap: scores become cap * tanh(score / cap). sinks_H: a score of each head that joins the
    softmax as one more key would, with a v of zero (gpt-oss, arXiv:2508.10925).
    """
    assert causal or window is None, "a window looks back"
    k_wide, v_wide = widen(k_TGK), widen(v_TGV)
    sequences = zip(*(torch.split(x, list(lengths)) for x in (q_THK, k_wide, v_wide)), strict=True)
    options = scale, window, soft_cap, causal, sinks_H
    return torch.cat([attend(q, k, v, *options) for q, k, v in sequences])


def attend(
    q_QHK: Tensor,
    k_SGK: Tensor,
    v_SGV: Tensor,
    scale: float,
    window: int | None,
    soft_cap: float | None,
    causal: bool = True,
    sinks_H: Tensor | None = None,
) -> Tensor:
    """Attention of the last Q of S tokens of one sequence, by blocks of queries; in q's dtype."""
    (queries, heads, size), (keys, groups, _) = q_QHK.shape, k_SGK.shape
    shared = heads // groups
    k_GKS, v_GSV = widen(k_SGK).permute(1, 2, 0), widen(v_SGV).transpose(0, 1)
    out = []
    for rows, seen in query_blocks(queries, keys, heads, window, causal):
        # The query heads of one key head stand side by side, as rows of one product.
        q_BGRK = (widen(q_QHK[rows]) * scale).reshape(-1, groups, shared, size)
        q_GQK = q_BGRK.transpose(0, 1).reshape(groups, -1, size)
        scores_GQS = q_GQK @ k_GKS[:, :, seen]
        if soft_cap is not None:
            scores_GQS = soft_cap * torch.tanh(scores_GQS / soft_cap)
        if causal:
            hidden_BS = ~visible(rows, seen, keys - queries, window, q_QHK.device)
            scores_GBRS = scores_GQS.view(groups, len(hidden_BS), shared, -1)
            scores_GBRS.masked_fill_(hidden_BS[:, None], float("-inf"))
        sinks_GQ1 = None
        if sinks_H is not None:
            sinks_GBR = widen(sinks_H).view(groups, 1, shared).expand(-1, len(q_BGRK), -1)
            sinks_GQ1 = sinks_GBR.reshape(groups, -1, 1)
        mixed_GQV = shares(scores_GQS, sinks_GQ1) @ v_GSV[:, seen]
        mixed_GBRV = mixed_GQV.view(groups, len(q_BGRK), shared, -1)
        out.append(mixed_GBRV.transpose(0, 1).flatten(1, 2))
    return torch.cat(out).to(q_QHK.dtype)


def shares(scores: Tensor, sinks: Tensor | None) -> Tensor:
    """Softmax over the last dimension.

    sinks: scores that take shares of their own, which are left out; 1 in the last dimension,
    broadcast over the others.
    """
    if sinks is None:
        return scores.softmax(-1)
    sinks = sinks.expand(*scores.shape[:-1], 1)
    return torch.cat([scores, sinks], -1).softmax(-1)[..., :-1]


def visible(
    rows: slice, seen: slice, before: int, window: int | None, device: torch.device
) -> Tensor:
    """Whether query j of `rows`, at position before + j, sees key i of `seen`; bool [B, S]."""
    query_B1 = torch.arange(before + rows.start, before + rows.stop, device=device)[:, None]
    key_S = torch.arange(seen.start, seen.stop, device=device)
    visible_BS = key_S <= query_B1
    return visible_BS if window is None else visible_BS & (key_S > query_B1 - window)


def query_blocks(
    queries: int, keys: int, heads: int, window: int | None, causal: bool = True
) -> Iterator[tuple[slice, slice]]:
    """Blocks of the last `queries` of `keys` tokens with the keys they see; see BLOCK_SCORES."""
    before = keys - queries
    # A window's block of up to `window` queries spans fewer than two windows of keys.
    span = keys if window is None else min(keys, 2 * window)
    size = max(1, BLOCK_SCORES // (heads * span))
    size = size if window is None else min(size, window)
    for first in range(0, queries, size):
        last = min(first + size, queries)
        end = before + last if causal else keys
        yield slice(first, last), slice(oldest_visible(before + first, window), end)


def oldest_visible(position: int, window: int | None) -> int:
    """The first position that the token at `position` sees."""
    return 0 if window is None else max(0, position - window + 1)


def visible_pairs(queries: int, keys: int, window: int | None) -> int:
    """(query, key) pairs of the last `queries` of `keys` tokens: min(position + 1, window) each."""
    before = keys - queries
    growing = queries if window is None else min(max(window - before, 0), queries)
    rest = 0 if window is None else (queries - growing) * window
    return growing * (2 * before + growing + 1) // 2 + rest


@attention.shapes
def _(
    q_THK: Tensor, k_TGK: Tensor, v_TGV: Tensor, lengths: tuple[int, ...], **options: Any
) -> Tensor:
    return q_THK.new_empty(*q_THK.shape[:2], v_TGV.shape[2])


def _flops(
    q_THK: Tensor, v_TGV: Tensor, lengths: tuple[int, ...], window: int | None, causal: bool
) -> int:
    """Of the two matrix products, hidden pairs left out."""
    pairs = sum(visible_pairs(n, n, window) if causal else n * n for n in lengths)
    return 2 * q_THK.shape[1] * (q_THK.shape[2] + v_TGV.shape[2]) * pairs


@attention.cost
def _(
    out: Tensor,
    q_THK: Tensor,
    k_TGK: Tensor,
    v_TGV: Tensor,
    lengths: tuple[int, ...],
    *,
    window: int | None = None,
    causal: bool = True,
    sinks_H: Tensor | None = None,
    **options: Any,
) -> Cost:
    moved = nbytes(q_THK, k_TGK, v_TGV, sinks_H, out)
    return Cost(_flops(q_THK, v_TGV, lengths, window, causal), moved)


@attention.backward
def _(
    out: Tensor,
    q_THK: Tensor,
    k_TGK: Tensor,
    v_TGV: Tensor,
    lengths: tuple[int, ...],
    *,
    window: int | None = None,
    soft_cap: float | None = None,
    causal: bool = True,
    sinks_H: Tensor | None = None,
    **options: Any,
) -> Backward:
    heads, wide = q_THK.shape[1], wide_bytes(q_THK)
    blocks = [b for n in lengths for b in query_blocks(n, n, heads, window, causal)]
    pairs = sum((q.stop - q.start) * (s.stop - s.start) for q, s in blocks)
    sinks = 0 if sinks_H is None else len(q_THK) * heads
    is_wide = k_TGK.element_size() == wide
    copies = (q_THK,) if is_wide else (q_THK, k_TGK, v_TGV)
    return Backward(
        Cost(
            flops=2 * _flops(q_THK, v_TGV, lengths, window, causal),
            bytes=2 * nbytes(q_THK, k_TGK, v_TGV) + nbytes(out),
        ),
        saved=(k_TGK, v_TGV) if is_wide else (),
        # The scaled q, probabilities, with a soft cap its tanh, and a mask where some is hidden.
        extra_bytes=wide * (sinks + sum(t.numel() for t in copies))
        + pairs * (wide * heads * (1 if soft_cap is None else 2) + causal),
    )


@attention.row
def _(
    i: int,
    q_THK: Tensor,
    k_TGK: Tensor,
    v_TGV: Tensor,
    lengths: tuple[int, ...],
    *,
    causal: bool = True,
    **options: Any,
) -> tuple[Any, ...]:
    first = 0
    for length in lengths:
        if i < first + length:
            break
        first += length
    end = i + 1 if causal else first + length
    # Where all see all, the order of queries is free, and i's may be the last.
    q_QHK = torch.cat([q_THK[first:i], q_THK[i + 1 : end], q_THK[i : i + 1]])
    return q_QHK, k_TGK[first:end], v_TGV[first:end], (end - first,)


@attention.cases
def _(make: Inputs) -> Iterator[Case]:
    def case(
        name: str,
        lengths: tuple[int, ...],
        sizes: tuple[int, int, int, int],
        bench: bool = False,
        sinks: bool = False,
        **options: Any,
    ) -> Case:
        heads, groups, k_size, v_size = sizes
        if sinks:
            options["sinks_H"] = make.normal(heads)
        arguments = (
            make.normal(sum(lengths), heads, k_size),
            make.normal(sum(lengths), groups, k_size),
            make.normal(sum(lengths), groups, v_size),
            lengths,
        )
        return Case(
            name, arguments, {"scale": k_size**-0.5, **options}, max(k_size, *lengths), bench
        )

    yield case("tiny", (3, 1), (2, 1, 4, 4))
    yield case("tiny window and cap", (5,), (2, 2, 2, 2), window=2, soft_cap=1.5)
    yield case("single tokens", (1, 1, 1), (4, 2, 16, 16))
    yield case("grouped", (17, 1, 40), (9, 3, 64, 64))
    yield case("window", (30, 50), (4, 2, 32, 32), window=7)
    yield case("soft cap", (30, 9), (4, 4, 16, 16), soft_cap=2.0)
    yield case("both ways", (17, 1, 30), (6, 2, 16, 16), causal=False)
    yield case("tiny both ways", (3, 2), (2, 1, 3, 3), causal=False, soft_cap=1.5)
    yield case("sinks", (12, 5), (6, 2, 16, 16), sinks=True)
    yield case("tiny sinks", (4,), (4, 2, 2, 2), sinks=True, window=2, soft_cap=1.5)
    yield case("narrow values", (12, 5), (4, 1, 24, 8))
    yield case("512", (512,), (9, 3, 64, 64), bench=True)
    yield case("4x512", (512,) * 4, (9, 3, 64, 64), bench=True)
