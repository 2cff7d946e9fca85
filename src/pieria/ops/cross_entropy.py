"""The loss of next-token prediction.

T tokens, V vocabulary.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pieria.ops.op import Backward, Case, Cost, Inputs, nbytes, op, wide_bytes, widen


@op
def cross_entropy(logits_TV: Tensor, targets_T: Tensor, ignore: int = -100) -> Tensor:
    """losses_T = log(sum_V exp(logits_TV)) - logits_T[targets_T], in nats, float32 or wider.

    0 where the target is `ignore`. targets_T: int64, else in [0, V).
    """
    return F.cross_entropy(widen(logits_TV), targets_T, ignore_index=ignore, reduction="none")


@cross_entropy.shapes
def _(logits_TV: Tensor, targets_T: Tensor, ignore: int = -100) -> Tensor:
    return widen(logits_TV.new_empty(targets_T.shape))


@cross_entropy.cost
def _(out: Tensor, logits_TV: Tensor, targets_T: Tensor, ignore: int = -100) -> Cost:
    return Cost(flops=4 * logits_TV.numel(), bytes=nbytes(logits_TV, targets_T, out))


@cross_entropy.backward
def _(out: Tensor, logits_TV: Tensor, targets_T: Tensor, ignore: int = -100) -> Backward:
    wide = wide_bytes(logits_TV)
    return Backward(
        Cost(flops=3 * logits_TV.numel(), bytes=2 * nbytes(logits_TV) + nbytes(targets_T, out)),
        saved=(targets_T,),
        # Every log-probability, and torch's sum of class weights.
        extra_bytes=wide * (logits_TV.numel() + 1),
    )


@cross_entropy.row
def _(i: int, logits_TV: Tensor, targets_T: Tensor, *rest: Any, **options: Any) -> tuple[Any, ...]:
    return logits_TV[i : i + 1], targets_T[i : i + 1], *rest


@cross_entropy.cases
def _(make: Inputs) -> Iterator[Case]:
    for tokens, vocabulary in [(1, 7), (5, 33), (9, 1000)]:
        arguments = (make.normal(tokens, vocabulary, scale=3), make.integers(0, vocabulary, tokens))
        yield Case(f"{tokens}x{vocabulary}", arguments, reduction=vocabulary)
    targets_T = make.tensor([3, -1, 0, -1], torch.int64)
    yield Case("ignored", (make.normal(4, 11, scale=3), targets_T, -1), reduction=11)
    for tokens in (32, 512):
        arguments = (make.normal(tokens, 49152), make.integers(0, 49152, tokens))
        yield Case(f"{tokens}x49152", arguments, reduction=49152, bench=True)
