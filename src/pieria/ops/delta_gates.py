"""How much the gated delta rule keeps and how much it corrects at each token.

Source: Yang et al. 2024, arXiv:2412.06464, as Qwen3-Next has it. T tokens, H heads.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pieria.ops.op import Backward, Case, Cost, Inputs, nbytes, op, wide_bytes, widen


@op
def delta_gates(
    forget_TH: Tensor, learn_TH: Tensor, log_H: Tensor, bias_H: Tensor
) -> tuple[Tensor, Tensor]:
    """decay_TH = -exp(log_H) softplus(forget_TH + bias_H), the logarithm of what a head keeps, and
    beta_TH = sigmoid(learn_TH); both in float32 or wider, as log_H and bias_H are.
    """
    decay_TH = -log_H.exp() * F.softplus(widen(forget_TH) + bias_H)
    return decay_TH, torch.sigmoid(widen(learn_TH))


@delta_gates.shapes
def _(forget_TH: Tensor, learn_TH: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
    return widen(torch.empty_like(forget_TH)), widen(torch.empty_like(learn_TH))


@delta_gates.cost
def _(
    out: tuple[Tensor, Tensor], forget_TH: Tensor, learn_TH: Tensor, log_H: Tensor, bias_H: Tensor
) -> Cost:
    given = forget_TH, learn_TH, log_H, bias_H
    return Cost(flops=9 * forget_TH.numel(), bytes=nbytes(*given, *out))


@delta_gates.backward
def _(
    out: tuple[Tensor, Tensor], forget_TH: Tensor, learn_TH: Tensor, log_H: Tensor, bias_H: Tensor
) -> Backward:
    given = forget_TH, learn_TH, log_H, bias_H
    # The rates and their negative, what softplus was given, and what it gave.
    numbers = 2 * log_H.numel() + 2 * forget_TH.numel()
    return Backward(
        Cost(flops=12 * forget_TH.numel(), bytes=2 * nbytes(*given) + nbytes(*out)),
        saved=(out[1],),
        extra_bytes=wide_bytes(forget_TH) * numbers,
    )


@delta_gates.row
def _(i: int, forget_TH: Tensor, learn_TH: Tensor, *rest: Tensor) -> tuple[Any, ...]:
    return forget_TH[i : i + 1], learn_TH[i : i + 1], *rest


@delta_gates.cases
def _(make: Inputs) -> Iterator[Case]:
    def case(tokens: int, heads: int, scale: float = 1.0, bench: bool = False) -> Case:
        arguments = (
            make.normal(tokens, heads, scale=scale),
            make.normal(tokens, heads, scale=scale),
            widen(make.normal(heads)),
            widen(make.normal(heads)),
        )
        return Case(f"{tokens}x{heads} of {scale:g}", arguments, bench=bench)

    yield case(2, 3)
    yield case(7, 33)
    yield case(5, 16, 30.0)
    for tokens in (1, 32, 512):
        yield case(tokens, 32, bench=True)
