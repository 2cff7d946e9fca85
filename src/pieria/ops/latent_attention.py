"""Causal attention over latents, which are keys and values in one.

This is multi-head latent attention (DeepSeek-V2, arXiv:2405.04434) with the matrices that expand
latents absorbed into queries and outputs. What a token sees is `ops.attention`'s rule.

T tokens, H query heads, all of which read the same latents, L dimensions of a latent, C of them
the value.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pieria.ops.attention import attend, query_blocks, visible_pairs
from pieria.ops.op import Backward, Case, Cost, Inputs, nbytes, op, wide_bytes, widen


@op
def latent_attention(
    q_THL: Tensor, latent_TL: Tensor, lengths: tuple[int, ...], *, rank: int, scale: float
) -> Tensor:
    """out_THC: each token's softmax(scale q.latent) average of the first `rank` of the dimensions.

    In float32 or wider. lengths: tokens of each sequence; they add up to T. A token sees those of
    its sequence up to itself.
    """
    wide_TL = widen(latent_TL)
    sequences = zip(*(torch.split(x, list(lengths)) for x in (q_THL, wide_TL)), strict=True)
    return torch.cat([attend_latents(q, latent, rank, scale) for q, latent in sequences])


def attend_latents(q_QHL: Tensor, latent_SL: Tensor, rank: int, scale: float) -> Tensor:
    """Attention of the last Q of S tokens of one sequence; in q's dtype."""
    latent_S1L = latent_SL[:, None]
    return attend(q_QHL, latent_S1L, latent_S1L[..., :rank], scale, None, None)


@latent_attention.shapes
def _(
    q_THL: Tensor, latent_TL: Tensor, lengths: tuple[int, ...], *, rank: int, scale: float
) -> Tensor:
    return q_THL.new_empty(*q_THL.shape[:2], rank)


def _flops(q_THL: Tensor, lengths: tuple[int, ...], rank: int) -> int:
    """Of the two matrix products, hidden pairs left out."""
    pairs = sum(visible_pairs(n, n, None) for n in lengths)
    return 2 * q_THL.shape[1] * (q_THL.shape[2] + rank) * pairs


@latent_attention.cost
def _(
    out: Tensor,
    q_THL: Tensor,
    latent_TL: Tensor,
    lengths: tuple[int, ...],
    *,
    rank: int,
    scale: float,
) -> Cost:
    return Cost(_flops(q_THL, lengths, rank), nbytes(q_THL, latent_TL, out))


@latent_attention.backward
def _(
    out: Tensor,
    q_THL: Tensor,
    latent_TL: Tensor,
    lengths: tuple[int, ...],
    *,
    rank: int,
    scale: float,
) -> Backward:
    heads, wide = q_THL.shape[1], wide_bytes(q_THL)
    blocks = [b for n in lengths for b in query_blocks(n, n, heads, None)]
    pairs = sum((q.stop - q.start) * (s.stop - s.start) for q, s in blocks)
    is_wide = latent_TL.element_size() == wide
    copied = q_THL.numel() + (0 if is_wide else latent_TL.numel())
    return Backward(
        Cost(
            flops=2 * _flops(q_THL, lengths, rank),
            bytes=2 * nbytes(q_THL, latent_TL) + nbytes(out),
        ),
        saved=(latent_TL,) if is_wide else (),
        # The scaled q, probabilities and a mask.
        extra_bytes=wide * copied + pairs * (wide * heads + 1),
    )


@latent_attention.row
def _(
    i: int, q_THL: Tensor, latent_TL: Tensor, lengths: tuple[int, ...], **options: Any
) -> tuple[Any, ...]:
    first = 0
    for length in lengths:
        if i < first + length:
            break
        first += length
    rows = slice(first, i + 1)
    return q_THL[rows], latent_TL[rows], (i + 1 - first,)


@latent_attention.cases
def _(make: Inputs) -> Iterator[Case]:
    def case(
        name: str, lengths: tuple[int, ...], sizes: tuple[int, int, int], bench: bool = False
    ) -> Case:
        heads, size, rank = sizes
        arguments = make.normal(sum(lengths), heads, size), make.normal(sum(lengths), size), lengths
        keywords = {"rank": rank, "scale": size**-0.5}
        return Case(name, arguments, keywords, max(size, *lengths), bench)

    yield case("tiny", (3, 1), (2, 6, 4))
    yield case("single tokens", (1, 1, 1), (4, 24, 16))
    yield case("some", (17, 1, 40), (3, 40, 32))
    yield case("all of it", (9, 4), (2, 16, 16))
    yield case("512", (512,), (16, 576, 512), bench=True)
