"""Which experts each token goes to, and how much each of them counts.

T tokens, E experts, A chosen ones of a token, G groups of M experts.
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from pieria.ops.op import Backward, Case, Cost, Inputs, nbytes, op, wide_bytes, widen

Score = Literal["softmax", "sigmoid", "twin"]
GroupScore = Literal["max", "top2"]

TINY = 1e-20
"""Added to the sum that weights are divided by, as DeepSeek-V3 does: sigmoids may all be zero."""


@op
def route(
    logits_TE: Tensor,
    bias_E: Tensor | None = None,
    *,
    top: int,
    score: Score,
    renormalise: bool,
    scale: float = 1.0,
    groups: int = 1,
    top_groups: int = 1,
    group_score: GroupScore = "max",
) -> tuple[Tensor, Tensor]:
    """weights_TA, float32 or wider, and experts_TA, int64: each token's `top` experts, best first.

    score: softmax over all experts (Mixtral, arXiv:2401.04088) or sigmoid (DeepSeek-V3,
    arXiv:2412.19437). Experts are chosen by score + bias_E, of equal ones the lower, and weighted
    by the score alone: with `renormalise` divided by the chosen ones' sum, then times `scale`.
    groups: experts are chosen from the `top_groups` best groups of neighbours only, a group being
    as good as its best expert ("max", DeepSeek-V2, arXiv:2405.04434) or as the sum of its two best
    ("top2", DeepSeek-V3).

    "twin" (JIUTIAN-139MoE's modeling_jiutian.py; top is 2, no other option counts): experts 0 and 1
    are the halves of one. A token that chooses either goes to both with weight 1; any other goes to
    the two best by softmax, weighted by a softmax over those two probabilities.
    """
    if score == "twin":
        return _twin(logits_TE)
    scores_TE = widen(logits_TE)
    scores_TE = scores_TE.sigmoid() if score == "sigmoid" else scores_TE.softmax(-1)
    choice_TE = scores_TE.detach() if bias_E is None else scores_TE.detach() + bias_E
    if groups > 1:
        choice_TGM = choice_TE.view(len(choice_TE), groups, -1)
        of_group = 1 if group_score == "max" else 2
        group_TG = choice_TGM.topk(of_group).values.sum(-1)
        kept_TG = torch.zeros_like(group_TG, dtype=torch.bool)
        kept_TG.scatter_(1, _best(group_TG, top_groups), True)
        choice_TE = choice_TGM.masked_fill(~kept_TG.unsqueeze(-1), float("-inf")).flatten(1)
    experts_TA = _best(choice_TE, top)
    weights_TA = scores_TE.gather(1, experts_TA)
    if renormalise:
        weights_TA = weights_TA / (weights_TA.sum(-1, keepdim=True) + TINY)
    return weights_TA * scale, experts_TA


def _twin(logits_TE: Tensor) -> tuple[Tensor, Tensor]:
    scores_TE = widen(logits_TE).softmax(-1)
    experts_TA = _best(scores_TE.detach(), 2)
    twin_T1 = (experts_TA < 2).any(-1, keepdim=True)
    weights_TA = torch.where(twin_T1, 1.0, scores_TE.gather(1, experts_TA).softmax(-1))
    return weights_TA, torch.where(twin_T1, torch.arange(2, device=logits_TE.device), experts_TA)


def _best(x_TN: Tensor, count: int) -> Tensor:
    """Places of the largest, best first; of equal ones the first is better, a NaN is best."""
    return x_TN.sort(dim=-1, descending=True, stable=True).indices[:, :count].contiguous()


@route.shapes
def _(
    logits_TE: Tensor, bias_E: Tensor | None = None, *, top: int, **options: Any
) -> tuple[Tensor, Tensor]:
    tokens = len(logits_TE)
    return widen(logits_TE.new_empty(tokens, top)), logits_TE.new_empty(
        tokens, top, dtype=torch.int64
    )


@route.cost
def _(
    out: tuple[Tensor, Tensor], logits_TE: Tensor, bias_E: Tensor | None = None, **options: Any
) -> Cost:
    """Scores, and one comparison of each with every choice."""
    flops = (4 + out[0].shape[1]) * logits_TE.numel()
    return Cost(flops=flops, bytes=nbytes(logits_TE, bias_E, *out))


@route.backward
def _(
    out: tuple[Tensor, Tensor],
    logits_TE: Tensor,
    bias_E: Tensor | None = None,
    *,
    score: Score,
    renormalise: bool,
    **options: Any,
) -> Backward:
    weights_TA, experts_TA = out
    scores = wide_bytes(logits_TE) * logits_TE.numel()
    sums = wide_bytes(logits_TE) * len(logits_TE)
    cost = Cost(flops=4 * logits_TE.numel() + 8 * weights_TA.numel(), bytes=2 * scores)
    if score == "twin":
        # Which were chosen, their second softmax, and which tokens go to the halves.
        kept = nbytes(experts_TA, weights_TA) + len(logits_TE)
        return Backward(cost, extra_bytes=scores + kept)
    # The scores, and for a division the chosen ones and their sums.
    divided = nbytes(weights_TA) + sums if renormalise else 0
    return Backward(cost, saved=(experts_TA,), extra_bytes=scores + divided)


route.constants = ("bias_E",)


@route.row
def _(i: int, logits_TE: Tensor, *rest: Any, **options: Any) -> tuple[Any, ...]:
    return logits_TE[i : i + 1], *rest


@route.cases
def _(make: Inputs) -> Iterator[Case]:
    def case(
        name: str,
        tokens: int,
        experts: int,
        top: int,
        bias: bool = False,
        bench: bool = False,
        **options: Any,
    ) -> Case:
        # No two alike, in any dtype: else rounding would decide who is chosen.
        ranks = [make.permutation(experts) for _ in range(tokens)]
        logits_TE = (torch.stack(ranks) * (6 / experts) - 3).to(make.dtype)
        arguments = (logits_TE, make.permutation(experts).to(make.dtype) / experts)
        keywords = {"score": "softmax", "renormalise": True, "top": top, **options}
        return Case(name, arguments[: 1 + bias], keywords, experts, bench)

    yield case("tiny", 3, 4, 2)
    yield case("softmax", 7, 60, 4, renormalise=False)
    yield case("sigmoid", 5, 16, 3, score="sigmoid", scale=2.5)
    yield case("bias", 9, 32, 4, True, score="sigmoid", scale=2.5)
    yield case("group of the best", 9, 32, 6, groups=8, top_groups=3, scale=16.0)
    grouped: dict[str, Any] = {"groups": 4, "top_groups": 2, "group_score": "top2"}
    yield case("group of the two best", 9, 32, 4, True, score="sigmoid", **grouped)
    yield case("twin", 12, 8, 2, score="twin")
    for tokens in (1, 32, 512):
        yield case(f"{tokens}, 8 of 128", tokens, 128, 8, bench=True)
