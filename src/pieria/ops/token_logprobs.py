"""What a report on a drawn token says: how likely it was, and what else was.

R rows, V vocabulary, C most likely tokens.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pieria.ops.op import Case, Cost, Inputs, nbytes, op, widen


@op
def token_logprobs(
    logits_RV: Tensor, tokens_R: Tensor, top: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(logprob_R, rank_R) of each row's token, (top_RC, top_tokens_RC) of the C = `top` likeliest.

    Natural logarithms of softmax(logits_RV), float32 or wider; ranks (1 is the most likely) and
    tokens int64. Of two tokens with equal logits the one with the lower id is the more likely.
    ValueError if `top` is not in [0, V].
    """
    vocabulary = logits_RV.shape[1]
    if not 0 <= top <= vocabulary:
        raise ValueError(f"top={top} must be from 0 to the vocabulary of {vocabulary} tokens")
    logits_RV = widen(logits_RV)
    total_R1 = logits_RV.logsumexp(-1, keepdim=True)
    own_R1 = logits_RV.gather(1, tokens_R[:, None])
    earlier_RV = torch.arange(vocabulary, device=logits_RV.device) < tokens_R[:, None]
    better_RV = (logits_RV > own_R1) | ((logits_RV == own_R1) & earlier_RV)
    top_RC, top_tokens_RC = most_likely(logits_RV, top)
    return (own_R1 - total_R1)[:, 0], 1 + better_RV.sum(-1), top_RC - total_R1, top_tokens_RC


def most_likely(logits_RV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest logits of each row and their tokens, in order, the lower of equals first.

    `topk` keeps any of several equal logits at the border; they are replaced by the lowest ones.
    """
    if count == 0:
        empty = logits_RV.new_empty(logits_RV.shape[0], 0)
        return empty, empty.long()
    top_RC, tokens_RC = logits_RV.topk(count)
    least_R1 = top_RC[:, -1:]
    row_B, token_B = (logits_RV == least_R1).nonzero(as_tuple=True)
    equals_R = row_B.bincount(minlength=len(logits_RV))
    above_R = (top_RC > least_R1).sum(-1)
    shift_R = above_R - (equals_R.cumsum(0) - equals_R)
    place_B = torch.arange(len(row_B), device=row_B.device) + shift_R[row_B]
    kept_B = place_B < count
    tokens_RC[row_B[kept_B], place_B[kept_B]] = token_B[kept_B]
    tokens_RC = tokens_RC.sort(dim=-1).values
    order = logits_RV.gather(1, tokens_RC).sort(dim=-1, descending=True, stable=True)
    return order.values, tokens_RC.gather(1, order.indices)


@token_logprobs.shapes
def _(logits_RV: Tensor, tokens_R: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    wide_RC = widen(logits_RV.new_empty(logits_RV.shape[0], top))
    return (
        wide_RC.new_empty(tokens_R.shape),
        tokens_R.new_empty(tokens_R.shape),
        wide_RC,
        tokens_R.new_empty(wide_RC.shape),
    )


@token_logprobs.cost
def _(out: tuple[Tensor, ...], logits_RV: Tensor, tokens_R: Tensor, top: int) -> Cost:
    return Cost(flops=6 * logits_RV.numel(), bytes=nbytes(logits_RV, tokens_R, *out))


@token_logprobs.row
def _(i: int, logits_RV: Tensor, tokens_R: Tensor, *rest: Any, **options: Any) -> tuple[Any, ...]:
    return logits_RV[i : i + 1], tokens_R[i : i + 1], *rest


@token_logprobs.cases
def _(make: Inputs) -> Iterator[Case]:
    for rows, vocabulary, top in [(1, 5, 5), (4, 33, 0), (7, 1000, 20)]:
        arguments = (make.normal(rows, vocabulary, scale=3), make.integers(0, vocabulary, rows))
        yield Case(f"{rows}x{vocabulary}, top {top}", (*arguments, top), reduction=vocabulary)
    ties_RV = make.tensor([[1.0, 3.0, 3.0, 2.0, 3.0, 1.0], [2.0] * 6])
    yield Case("ties", (ties_RV, make.tensor([4, 3], torch.int64), 2), reduction=6)
    for rows in (1, 32):
        large = (make.normal(rows, 49152), make.integers(0, 49152, rows), 20)
        yield Case(f"{rows}x49152, top 20", large, reduction=49152, bench=True)
