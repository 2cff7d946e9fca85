"""The choice of experts."""

import torch
from torch import Tensor

from pieria import ops
from pieria.kernels.cpu import native
from pieria.ops.route import GroupScore, Score

_route = native.kernel("route", "qPqPqqqqqdqqqPP")
_SCORES = {"softmax": 0, "sigmoid": 1, "twin": 2}


def _supports(logits_TE: Tensor, bias_E: Tensor | None = None, **options: object) -> bool:
    return (
        logits_TE.dtype in native.DTYPES
        and logits_TE.stride(1) == 1
        and (bias_E is None or (bias_E.dtype == logits_TE.dtype and bias_E.is_contiguous()))
    )


@ops.route.implement(supports=_supports, batch_invariant=True)
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
    tokens, experts = logits_TE.shape
    weights_TA = logits_TE.new_empty(tokens, top, dtype=torch.float32)
    experts_TA = logits_TE.new_empty(tokens, top, dtype=torch.int64)
    _route(
        *(native.DTYPES[logits_TE.dtype], logits_TE.data_ptr(), logits_TE.stride(0)),
        *(native.address(bias_E), tokens, experts, top),
        *(_SCORES[score], renormalise, scale),
        *(groups, top_groups, 1 if group_score == "max" else 2),
        *(weights_TA.data_ptr(), experts_TA.data_ptr()),
    )
    return weights_TA, experts_TA
