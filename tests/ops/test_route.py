"""Routers against those of transformers and a loop over tokens; ties; broken tokens."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2TopkRouter
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssTopKRouter
from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

from pieria import ops

EXPERTS, TOP = 16, 3
SOFTMAX: dict[str, Any] = {"top": TOP, "score": "softmax", "renormalise": True}
GROUPS = {"groups": 4, "top_groups": 2}
CASES: dict[str, tuple[type, dict[str, Any], dict[str, Any]]] = {
    "mixtral": (MixtralTopKRouter, {}, SOFTMAX),
    "qwen3 moe": (Qwen3MoeTopKRouter, {"norm_topk_prob": True}, SOFTMAX),
    "qwen3 moe as it is": (
        Qwen3MoeTopKRouter,
        {"norm_topk_prob": False},
        {**SOFTMAX, "renormalise": False},
    ),
    "gpt-oss": (GptOssTopKRouter, {}, SOFTMAX),
    "deepseek v2": (
        DeepseekV2TopkRouter,
        {"topk_method": "greedy", "n_group": 1, "topk_group": 1},
        {**SOFTMAX, "renormalise": False, "scale": 2.5},
    ),
    "deepseek v2, groups": (
        DeepseekV2TopkRouter,
        {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2},
        {**SOFTMAX, **GROUPS, "renormalise": False, "scale": 2.5},
    ),
    "deepseek v3": (
        DeepseekV3TopkRouter,
        {"norm_topk_prob": True, "n_group": 4, "topk_group": 2},
        {**SOFTMAX, **GROUPS, "score": "sigmoid", "group_score": "top2", "scale": 2.5},
    ),
}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", CASES)
def test_routers_of_transformers(name: str) -> None:
    """With an identity for a weight, hidden states are logits."""
    kind, config, options = CASES[name]
    shape = {"hidden_size": EXPERTS, "num_experts": EXPERTS, "num_local_experts": EXPERTS}
    settings = {**shape, "num_experts_per_tok": TOP, "routed_scaling_factor": 2.5, **config}
    router = kind(SimpleNamespace(**settings))
    logits_TE, bias_E = random(200, EXPERTS) * 2, None
    with torch.no_grad():
        router.weight.copy_(torch.eye(EXPERTS))
        if hasattr(router, "e_score_correction_bias"):
            bias_E = random(EXPERTS, seed=1) * 0.3
            router.e_score_correction_bias.copy_(bias_E)
        if hasattr(router, "bias"):
            router.bias.zero_()
        _, want_TA, chosen_TA = router(logits_TE)
    weights_TA, experts_TA = ops.route(logits_TE, bias_E, **options)
    assert torch.equal(experts_TA.sort().values, chosen_TA.sort().values)
    dense = torch.zeros(200, EXPERTS)
    torch.testing.assert_close(
        dense.scatter(1, experts_TA, weights_TA), dense.scatter(1, chosen_TA, want_TA)
    )
    if bias_E is not None:
        unbiased = ops.route(logits_TE, **options)[1]
        assert not torch.equal(unbiased.sort().values, experts_TA.sort().values)


def naive(
    logits_E: list[float],
    bias_E: list[float],
    top: int,
    score: str,
    renormalise: bool,
    groups: int,
    top_groups: int,
    group_score: str,
) -> list[tuple[int, float]]:
    """One token, in float64; of equals the lower number."""
    row = torch.tensor(logits_E, dtype=torch.float64)
    scores = (row.sigmoid() if score == "sigmoid" else row.softmax(0)).tolist()
    choice = [s + b for s, b in zip(scores, bias_E, strict=True)]
    size = len(choice) // groups
    of_group = [
        sum(sorted(choice[g * size : (g + 1) * size])[-(1 if group_score == "max" else 2) :])
        for g in range(groups)
    ]
    kept = sorted(range(groups), key=lambda g: (-of_group[g], g))[:top_groups]
    allowed = [e for e in range(len(choice)) if e // size in kept]
    chosen = sorted(allowed, key=lambda e: (-choice[e], e))[:top]
    total = sum(scores[e] for e in chosen) if renormalise else 1.0
    return [(e, scores[e] / total) for e in chosen]


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_any_options_are_the_loop(data: st.DataObject) -> None:
    """Few different numbers, so that ties are common."""
    draw = data.draw
    groups = draw(st.integers(1, 3))
    experts = groups * draw(st.integers(2, 4))
    top_groups = draw(st.integers(1, groups))
    options = {
        "top": draw(st.integers(1, top_groups * experts // groups)),
        "score": draw(st.sampled_from(["softmax", "sigmoid"])),
        "renormalise": draw(st.booleans()),
        "groups": groups,
        "top_groups": top_groups,
        "group_score": draw(st.sampled_from(["max", "top2"])),
    }
    row = st.lists(st.integers(-2, 2).map(float), min_size=experts, max_size=experts)
    logits = draw(st.lists(row, min_size=1, max_size=4))
    bias = draw(st.lists(st.sampled_from([0.0, 0.5]), min_size=experts, max_size=experts))
    biased = draw(st.booleans())
    weights_TA, experts_TA = ops.route(
        torch.tensor(logits, dtype=torch.float64),
        torch.tensor(bias, dtype=torch.float64) if biased else None,
        **options,
    )
    for i, logits_E in enumerate(logits):
        want = naive(logits_E, bias if biased else [0.0] * experts, **options)
        assert experts_TA[i].tolist() == [e for e, _ in want]
        assert weights_TA[i].tolist() == pytest.approx([w for _, w in want])


def test_twin() -> None:
    """Both halves of expert 0 for whoever chooses one, else a softmax over two probabilities."""
    logits_TE = torch.full((4, 8), -9.0, dtype=torch.float64)
    logits_TE[0, [0, 5]] = torch.tensor([1.0, 2.0], dtype=torch.float64)
    logits_TE[1, [1, 6]] = torch.tensor([1.0, 2.0], dtype=torch.float64)
    logits_TE[2, [0, 1]] = torch.tensor([1.0, 2.0], dtype=torch.float64)
    logits_TE[3, [4, 2]] = torch.tensor([1.0, 2.0], dtype=torch.float64)
    weights_TA, experts_TA = ops.route(logits_TE, top=2, score="twin", renormalise=False)
    assert experts_TA.tolist() == [[0, 1], [0, 1], [0, 1], [2, 4]]
    assert weights_TA[:3].tolist() == [[1.0, 1.0]] * 3
    p = logits_TE[3].softmax(0)
    want = torch.stack([p[2], p[4]]).softmax(0)
    torch.testing.assert_close(weights_TA[3], want)


@pytest.mark.parametrize("score", ["softmax", "sigmoid", "twin"])
def test_a_broken_token_hurts_no_other(score: Any) -> None:
    options = {"top": 2, "score": score, "renormalise": True}
    logits_TE = random(3, 8)
    logits_TE[1] = torch.nan
    weights_TA, experts_TA = ops.route(logits_TE, **options)
    assert ((experts_TA >= 0) & (experts_TA < 8)).all()
    assert weights_TA[[0, 2]].isfinite().all()
    assert score == "twin" or weights_TA[1].isnan().all()


def test_sigmoids_that_are_all_zero_give_no_nan() -> None:
    logits_TE = torch.full((1, 4), -200.0)
    weights_TA, _ = ops.route(logits_TE, top=2, score="sigmoid", renormalise=True)
    assert weights_TA.tolist() == [[0.0, 0.0]]


def test_weights_are_float32_or_wider() -> None:
    for dtype, wide in [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)]:
        weights_TA, experts_TA = ops.route(random(2, 8).to(dtype), **SOFTMAX)
        assert (weights_TA.dtype, experts_TA.dtype) == (wide, torch.int64)
