"""One way to serve: its simulation in numbers, its bounds, and what is handed over."""

from dataclasses import replace

import pytest

from pieria.engine.scheduler import SchedulerConfig
from pieria.hardware import catalog
from pieria.plan import presets
from pieria.plan.arrangement import Arrangement
from pieria.plan.lengths import Lengths
from pieria.plan.placed import Placed, Subject, placed
from pieria.plan.precision import PRECISIONS
from pieria.plan.serving import (
    Way,
    capacities,
    estimate,
    evaluate,
    load_curve,
    typical_steps,
    wire,
)
from pieria.plan.slo import Slo
from pieria.plan.workload import Workload
from tests.plan import small

LOAD = Workload(rate=20.0, input=Lengths("fixed", 500), output=Lengths("fixed", 40), requests=120)
LIMITS = SchedulerConfig(32, 2048)


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    path = small.write(tmp_path_factory.mktemp("small"))
    return Subject("small", presets.model(str(path)), catalog.cluster("mtt-s5000"))


@pytest.fixture(scope="module")
def one(subject: Subject) -> Placed:
    return placed(subject, Arrangement(tp=2, dp=2), PRECISIONS["bfloat16"], LIMITS)


def test_a_simulation_in_numbers(one: Placed) -> None:
    way = Way(one)
    slo = Slo(ttft=10.0, tpot=1.0)
    found = evaluate(way, LOAD, slo)
    simulation, s = way.run(LOAD, slo), found.summary
    assert (found.cards, s.asked, s.refused, s.good_share) == (4, 120, 0, 1.0)
    assert s.offered == 20.0 and not s.is_closed
    assert s.answer_tokens_per_second == pytest.approx(120 * 40 / simulation.seconds)
    assert s.prompt_tokens_per_second == pytest.approx(120 * 500 / simulation.seconds)
    assert s.card_tokens_per_second == pytest.approx(s.answer_tokens_per_second / 4)
    assert s.user_tokens_per_second == pytest.approx(1 / s.tpot.p50)
    assert s.handover is None
    # Users see the front too.
    assert s.ttft.p50 > one.subject.practice.front_seconds + 500 * 5e-6


def test_bounds_are_bounds(one: Placed) -> None:
    way = Way(one)
    bound = estimate(way, LOAD)
    light = evaluate(way, replace(LOAD, rate=0.5, requests=20), Slo()).summary
    assert light.ttft.p50 == pytest.approx(bound.ttft, rel=0.05)
    assert light.tpot.p50 == pytest.approx(bound.tpot, rel=0.05)
    heavy = evaluate(way, replace(LOAD, rate=20 * bound.rate, requests=1500), Slo()).summary
    assert 0.6 * bound.rate < heavy.requests_per_second < 1.1 * bound.rate


def test_latency_grows_with_load(one: Placed) -> None:
    points = load_curve(Way(one), LOAD, Slo(), 300, (0.1, 0.5, 1.5))
    assert [p.offered for p in points] == sorted(p.offered for p in points)
    assert points[0].tpot.p50 < points[1].tpot.p50 < points[2].tpot.p50
    assert points[0].answer_tokens_per_second < points[2].answer_tokens_per_second
    closed = replace(LOAD, rate=None, concurrency=8)
    users = load_curve(Way(one), closed, Slo(), 40, (0.1, 0.5, 1.0))
    assert [p.offered for p in users] == [2, 8, 16]
    assert all(p.is_closed for p in users)


def test_capacity_at_every_length(one: Placed) -> None:
    found = capacities(one)
    assert [c.context for c in found] == [1024, 2048, 4096]
    assert [c.at_once for c in found] == [2 * 32] * 3
    use = one.memory[0]
    each = 4 * 2 * 2 * 64 * 2  # four layers, keys and values of two of the four heads
    assert [c.in_memory for c in found] == [
        2 * ((use.cache + use.free) // (c.context * each)) for c in found
    ]


def test_typical_steps_are_explained(one: Placed) -> None:
    simulation = Way(one).run(LOAD, Slo())
    answers, prompt = typical_steps(one, simulation, LOAD)
    assert answers.tokens == answers.requests == round(simulation.pools[0].running)
    assert answers.context == 521
    assert (prompt.requests, prompt.tokens) == (1, 500)
    for step in (answers, prompt):
        calls = sum(line.seconds for line in step.explanation.lines)
        extra = sum(seconds for _, seconds in step.explanation.extra)
        assert calls + extra == pytest.approx(step.explanation.seconds)
    seconds = one.predictor.seconds([500], [0], 1)
    assert prompt.explanation.seconds == pytest.approx(seconds, rel=1e-6)


def test_prompts_and_answers_apart(one: Placed) -> None:
    half = replace(one, arrangement=replace(one.arrangement, dp=1))
    way = Way(half, half)
    assert (way.cards, str(way.label)) == (4, "TP2 for prompts, TP2 for answers")
    found = evaluate(way, LOAD, Slo()).summary
    assert found.handover is not None
    sent = wire(half, half)
    # Two cards of a full mesh of eight, each with links to two others.
    fabric = one.subject.cluster.tiers[0]
    assert sent.bandwidth == pytest.approx(2 * fabric.payload(3).value)
    assert sent.token_bytes == 4 * 2 * 4 * 64 * 2
    expected = sent.latency + 500 * sent.token_bytes / sent.bandwidth
    assert found.handover.p50 == pytest.approx(expected)
    bound = estimate(way, LOAD)
    assert bound.rate < estimate(Way(one), LOAD).rate * 1.5
