"""Grouped experts against transformers and a loop over tokens; parts over ranks; order of sums."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.activations import ACT2FN
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts

from pieria import ops

T, A, E, D, F = 40, 3, 6, 16, 24


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def inputs(tokens: int = T, biases: bool = False, seed: int = 0) -> list[Tensor]:
    chosen_TA = torch.stack([random(E, seed=seed + i).argsort()[:A] for i in range(tokens)])
    sizes = [(E, F, D), (E, F, D), (E, D, F)]
    made = [random(tokens, D), random(tokens, A).softmax(-1), chosen_TA]
    made += [random(*size, seed=i) * 0.3 for i, size in enumerate(sizes, 1)]
    return made + [random(*size[:2], seed=i) for i, size in enumerate(sizes, 4) if biases]


def naive(
    arguments: list[Tensor],
    activation: str,
    here: range = range(E),
    limit: float = 0.0,
    slope: float = 0.0,
) -> Tensor:
    """One token and one of its experts at a time."""
    x_TD, weights_TA, experts_TA, gate, up, down, *biases = arguments
    y_TD = torch.zeros_like(x_TD)
    for t, row in enumerate(experts_TA.tolist()):
        for weight, e in zip(weights_TA[t], row, strict=True):
            if e not in here:
                continue
            i = e - here.start
            g, u = gate[i] @ x_TD[t], up[i] @ x_TD[t]
            if biases:
                g, u = g + biases[0][i], u + biases[1][i]
            if activation == "clamped":
                g, u = g.clamp(max=limit), u.clamp(-limit, limit)
                hidden = g * (slope * g).sigmoid() * (u + 1)
            else:
                name = {"gelu_tanh": "gelu_pytorch_tanh"}.get(activation, activation)
                hidden = ACT2FN[name](g) * u
            y_TD[t] += weight * (down[i] @ hidden + (biases[2][i] if biases else 0))
    return y_TD


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh", "clamped"])
@pytest.mark.parametrize("biases", [False, True])
def test_experts_are_the_loop(activation: Any, biases: bool) -> None:
    arguments = inputs(biases=biases)
    bounds: dict[str, float] = {"limit": 0.7, "slope": 1.3} if activation == "clamped" else {}
    got = ops.experts(*arguments, activation=activation, **bounds)
    torch.testing.assert_close(got, naive(arguments, activation, **bounds))


def test_experts_are_those_of_gpt_oss() -> None:
    config = SimpleNamespace(
        intermediate_size=F,
        num_local_experts=E,
        hidden_size=D,
        swiglu_alpha=1.3,
        swiglu_limit=0.5,
        _experts_implementation="eager",
    )
    theirs = GptOssExperts(config).double()
    arguments = inputs(biases=True)
    x_TD, weights_TA, experts_TA, gate, up, down, *biases = arguments
    with torch.no_grad():
        theirs.gate_up_proj.copy_(torch.stack([gate, up], 2).flatten(1, 2).mT)
        theirs.gate_up_proj_bias.copy_(torch.stack(biases[:2], 2).flatten(1))
        theirs.down_proj.copy_(down.mT)
        theirs.down_proj_bias.copy_(biases[2])
        want = theirs(x_TD, experts_TA, weights_TA)
    got = ops.experts(*arguments, activation="clamped", limit=0.5, slope=1.3)
    torch.testing.assert_close(got, want)


@given(st.integers(1, 9), st.integers(0, E - 1), st.integers(1, E), st.booleans())
@settings(max_examples=40, deadline=None)
def test_any_part_of_the_experts(tokens: int, first: int, count: int, biases: bool) -> None:
    here = range(first, min(first + count, E))
    arguments = inputs(tokens, biases)
    part = [*arguments[:3], *(w[here.start : here.stop] for w in arguments[3:])]
    got = ops.experts(*part, activation="silu", first=first, total=E)
    torch.testing.assert_close(got, naive(part, "silu", here))


def test_parts_over_experts_and_features_add_up() -> None:
    """As ep=2, tp=2 cut them; the bias of the last product is the first tp rank's."""
    arguments = inputs(biases=True)
    total = torch.zeros_like(arguments[0])
    for first in (0, E // 2):
        held = [w[first : first + E // 2] for w in arguments[3:]]
        for tp in range(2):
            cut = slice(tp * F // 2, (tp + 1) * F // 2)
            gate, up, down, gate_bias, up_bias, down_bias = held
            part = [gate[:, cut], up[:, cut], down[:, :, cut], gate_bias[:, cut], up_bias[:, cut]]
            total += ops.experts(
                *arguments[:3],
                *part,
                down_bias if tp == 0 else None,
                activation="silu",
                first=first,
                total=E,
            )
    torch.testing.assert_close(total, ops.experts(*arguments, activation="silu"))


def test_a_tokens_experts_are_added_in_its_order() -> None:
    """1e8 + 1 - 1e8 in float32 is 0 or 1, depending on the order."""
    ones = torch.ones(3, 1, 1)
    down = torch.tensor([1e8, 1.0, -1e8]).view(3, 1, 1)
    x_TD = torch.full((2, 1), 40.0)  # silu(40) is 40 in float32
    weights_TA = torch.full((2, 3), 1 / 1600)
    experts_TA = torch.tensor([[0, 1, 2], [0, 2, 1]])
    y_TD = ops.experts(x_TD, weights_TA, experts_TA, ones, ones, down, activation="silu")
    assert y_TD[0].item() == 0.0
    assert y_TD[1].item() == pytest.approx(1.0)


def test_a_broken_token_hurts_no_other() -> None:
    arguments = inputs()
    want = ops.experts(*arguments, activation="silu")
    arguments[0][7] = torch.nan
    got = ops.experts(*arguments, activation="silu")
    assert got[7].isnan().all()
    others = [i for i in range(T) if i != 7]
    assert torch.equal(got[others], want[others])


def test_costs_are_of_an_average_batch() -> None:
    """4 of 8 experts here, 2 of 8 chosen: a token uses one here; its weights are 3 F D numbers."""
    x_TD, weights_TA = torch.empty(1, D, device="meta"), torch.empty(1, 2, device="meta")
    chosen_TA = torch.empty(1, 2, dtype=torch.int64, device="meta")
    gate, down = torch.empty(4, F, D, device="meta"), torch.empty(4, D, F, device="meta")
    for tokens in (1, 10):
        batch = [x.expand(tokens, -1) for x in (x_TD, weights_TA, chosen_TA)]
        with ops.trace() as calls:
            ops.experts(*batch, gate, gate, down, activation="silu", first=4, total=8)
        cost = calls[0].cost
        assert cost.flops == tokens * 2 * 3 * F * D
        used = 4 * (1 - 0.75**tokens)
        assert cost.bytes == tokens * (2 * D * 4 + 2 * 4 + 2 * 8) + round(used * 3 * F * D * 4)
