"""A step's formula against the same step traced, and numbers that predictions are known by."""

import json
from dataclasses import replace
from functools import cache
from importlib.resources import files
from random import Random
from typing import Any

import pytest

from pieria.engine.plan import Chunk, Draw, StepPlan
from pieria.hardware import catalog
from pieria.models.keys import Keys
from pieria.models.registry import model_config
from pieria.parallel.mesh import Mesh
from pieria.plan.practice import PIERIA, PRACTICES, SGLANG
from pieria.plan.precision import PRECISIONS
from pieria.plan.predict import Predictor
from pieria.plan.presets import preset
from pieria.plan.routing import ROUTINGS

SHORT = {"gpt-oss-20b": 4, "deepseek-v3": 4, "qwen3-30b-a3b": 2, "qwen3-next": 4, "qwen3-0.6b": 2}
"""Windows, latents with dense layers first, experts, gated delta layers, and none of these."""


@cache
def predictor(
    name: str, routing: str = "balanced", tp: int = 2, practice: str = "engine"
) -> Predictor:
    config: dict[str, Any] = {**preset(name).config, "num_hidden_layers": SHORT[name]}
    if "layer_types" in config:
        config["layer_types"] = config["layer_types"][: SHORT[name]]
    return Predictor(
        model_config(Keys(config, name)),
        Mesh(tp=tp),
        catalog.cluster("h100"),
        PRECISIONS["bfloat16"],
        practice=PRACTICES[practice],
        routing=ROUTINGS[routing],
    )


def plan(predicted: Predictor, wanted: list[tuple[int, int, bool]]) -> StepPlan:
    """Of (start, tokens, whether a token is drawn)."""
    tables = len(predicted.layout.windows)
    return StepPlan(
        tuple(
            Chunk(
                str(i),
                start,
                (0,) * count,
                ((0,) * -(-(start + count) // 16),) * tables,
                reads=0 if start else -1,
                writes=0,
                draw=Draw(0) if drawn else None,
            )
            for i, (start, count, drawn) in enumerate(wanted)
        )
    )


def plans(predicted: Predictor) -> list[StepPlan]:
    """Single tokens, prompts, and both."""
    random = Random(0)
    singles = [(random.randint(1, 3000), 1, True) for _ in range(17)]
    prompts = [(0, random.randint(2, 700), random.random() < 0.5) for _ in range(3)]
    later = [(random.randint(1, 999), random.randint(2, 99), True) for _ in range(2)]
    return [plan(predicted, w) for w in (singles, prompts, singles + prompts + later, later[:1])]


@pytest.mark.parametrize("routing", ["balanced", "skewed"])
@pytest.mark.parametrize("name", SHORT)
def test_formula_is_what_the_traced_step_takes(name: str, routing: str) -> None:
    predicted = predictor(name, routing)
    for step in plans(predicted):
        assert predicted(step) == pytest.approx(predicted.explain(step).seconds, rel=1e-6)


def test_formula_holds_where_nothing_is_fused() -> None:
    predicted = predictor("qwen3-0.6b", practice=PIERIA.name)
    for step in plans(predicted):
        assert predicted(step) == pytest.approx(predicted.explain(step).seconds, rel=1e-6)


def test_explained_seconds_add_up() -> None:
    predicted = predictor("qwen3-30b-a3b")
    found = predicted.explain(plans(predicted)[0])
    total = sum(line.seconds for line in found.lines) + sum(seconds for _, seconds in found.extra)
    assert found.seconds == pytest.approx(total)


def test_skewed_experts_take_longer_in_prompts() -> None:
    even, skewed = (predictor("qwen3-30b-a3b", routing) for routing in ("balanced", "skewed"))
    step = plan(even, [(0, 2000, True)])
    assert skewed(step) > even(step)


def test_windows_bound_what_single_tokens_cost() -> None:
    predicted = predictor("gpt-oss-20b", tp=1)
    plain = predictor("qwen3-0.6b", tp=1)

    def growth(one: Predictor) -> float:
        near, far = (one(plan(one, [(start, 1, True)] * 64)) for start in (1000, 16000))
        return far / near

    assert growth(predicted) < growth(plain)


@pytest.mark.parametrize(
    ("device", "low", "high"), [("h100", 5.0, 9.0), ("h20", 4.0, 8.0), ("mtt-s5000", 10.0, 17.0)]
)
def test_single_tokens_take_what_reading_the_weights_takes(
    device: str, low: float, high: float
) -> None:
    """Milliseconds; 8 billion weights of 2 bytes at 3.35, 4.0 and 1.6 TB/s are 4.8, 4.0 and 10."""
    predicted = Predictor(preset("qwen3-8b").model(), Mesh(), catalog.cluster(device))
    assert low < predicted(plan(predicted, [(500, 1, True)])) * 1e3 < high


def test_graphs_spare_launches() -> None:
    config = preset("qwen3-0.6b").model()
    slow, quick = (
        Predictor(config, Mesh(), catalog.cluster("h100"), practice=replace(SGLANG, graph_tokens=n))
        for n in (0, 512)
    )
    step = plan(quick, [(100, 1, True)])
    assert slow(step) > 1.2 * quick(step)


def test_presets_name_each_model_once() -> None:
    text = (files("pieria.plan") / "presets.json").read_text(encoding="utf-8")
    names = [name for entry in json.loads(text) for name in entry["names"]]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("jiutian-8b", 32),
        ("jiutian-139moe", 40),
        ("DeepSeek-V3", 61),
        ("Kimi-K2-Instruct", 61),
        ("Kimi-K2.5", 61),
        ("Qwen3-0.6B", 28),
        ("Qwen3-32B", 64),
        ("Qwen3-235B-A22B", 94),
        ("Llama-3.1-8B-Instruct", 32),
        ("Llama-3.1-70B", 80),
        ("Llama-3.1-405B", 126),
        ("gpt-oss-120b", 36),
        ("MiniMax-M2.5", 62),
    ],
)
def test_a_preset_is_a_model(name: str, layers: int) -> None:
    assert len(preset(name).model().layers) == layers
