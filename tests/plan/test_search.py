"""The search against trying everything: its best way, its Pareto set, what is left out."""

from dataclasses import replace

import pytest

from pieria.engine.scheduler import SchedulerConfig
from pieria.hardware import catalog
from pieria.plan import presets
from pieria.plan.arrangement import arrangements
from pieria.plan.lengths import Lengths
from pieria.plan.placed import Subject, placed
from pieria.plan.precision import PRECISIONS
from pieria.plan.search import Found, merit, pareto, search, shortened
from pieria.plan.serving import Evaluated, Way, evaluate
from pieria.plan.slo import Slo
from pieria.plan.workload import Workload
from tests.plan import small

LOAD = Workload(rate=200.0, input=Lengths("fixed", 300), output=Lengths("fixed", 40), requests=150)
SLO = Slo(ttft=0.5, tpot=0.005)
LIMITS = [SchedulerConfig(8, 1024), SchedulerConfig(64, 4096)]
FORMS = [PRECISIONS["bfloat16"], PRECISIONS["fp8"]]


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    path = small.write(tmp_path_factory.mktemp("small"))
    return Subject("small", presets.model(str(path)), catalog.cluster("mtt-s5000"))


@pytest.fixture(scope="module")
def found(subject: Subject) -> Found:
    return search(subject, 4, FORMS, LIMITS, LOAD, SLO)


@pytest.fixture(scope="module")
def every(subject: Subject) -> list[Evaluated]:
    """All ways, tried one by one."""
    ways = [
        Way(placed(subject, spread, form, config))
        for spread in arrangements(4, has_experts=False)
        for form in FORMS
        for config in LIMITS
    ]
    return [evaluate(way, shortened(LOAD), SLO) for way in ways]


def test_the_best_of_all_is_found(found: Found, every: list[Evaluated]) -> None:
    best = max(every, key=lambda one: merit(one, SLO))
    assert merit(found.evaluated[0], SLO) == merit(best, SLO)
    assert len(found.evaluated) + len(found.rejected) == len(every) == 24
    assert [way.label for way in found.ways] == [one.label for one in found.evaluated]


def test_what_is_simulated_is_simulated_alike(found: Found, every: list[Evaluated]) -> None:
    by_label = {repr(one.label): one for one in every}
    for one in found.evaluated:
        assert one.summary == by_label[repr(one.label)].summary


def test_nothing_beats_what_is_on_the_front(found: Found, every: list[Evaluated]) -> None:
    def values(one: Evaluated) -> tuple[float, float, float]:
        s = one.summary
        return -s.card_tokens_per_second, s.tpot.p50, s.ttft.p50

    assert found.pareto
    for place in found.pareto:
        mine = values(found.evaluated[place])
        better = [
            one
            for one in every
            if all(a < b - 0.01 * abs(b) for a, b in zip(values(one), mine, strict=True))
        ]
        assert not better
    inside = set(range(len(found.evaluated))) - set(found.pareto)
    front = [values(found.evaluated[i]) for i in found.pareto]
    for place in inside:
        mine = values(found.evaluated[place])
        assert any(
            all(a <= b + 1e-3 * abs(b) for a, b in zip(other, mine, strict=True)) for other in front
        )


def test_a_front_has_one_of_those_that_are_alike(found: Found) -> None:
    twice = [*found.evaluated, *found.evaluated]
    assert pareto(twice) == pareto(found.evaluated) == found.pareto


def test_slow_ways_are_left_out_with_their_reason(subject: Subject) -> None:
    tight = Slo(tpot=1e-4)
    found = search(subject, 2, FORMS[:1], LIMITS[:1], LOAD, tight)
    assert found.evaluated, "the nearest are shown all the same"
    assert any("TPOT of one request alone is" in one.reason for one in found.rejected)
    flood = replace(LOAD, rate=1e5, requests=60)
    few = search(subject, 4, FORMS[:1], LIMITS, flood, Slo())
    assert any("at most about" in one.reason for one in few.rejected)


def test_what_does_not_divide_is_left_out_with_its_reason(subject: Subject) -> None:
    found = search(subject, 3, FORMS[:1], LIMITS[:1], LOAD, Slo())
    reasons = {one.name: one.reason for one in found.rejected}
    assert "do not divide over tp=3" in reasons["TP3 in bfloat16"]
    many = search(subject, 5, FORMS[:1], LIMITS[:1], LOAD, Slo())
    assert {r.name: r.reason for r in many.rejected}["PP5 in bfloat16"] == (
        "4 layers are no 5 stages"
    )


def test_if_nothing_fits_every_reason_is_named(subject: Subject) -> None:
    tiny = replace(subject, memory_fraction=0.001)
    with pytest.raises(ValueError) as refused:
        search(tiny, 2, FORMS[:1], LIMITS[:1], LOAD, Slo())
    text = str(refused.value)
    assert "there is no way to serve small on 2 cards" in text
    for name in ("DP2 in bfloat16", "TP2 in bfloat16", "PP2 in bfloat16"):
        assert f"{name}: small in bfloat16" in text


def test_prompts_apart_are_tried_too(subject: Subject) -> None:
    told: list[str] = []
    found = search(
        subject,
        4,
        FORMS[1:],
        LIMITS[1:],
        LOAD,
        Slo(),
        is_apart=True,
        report=lambda what, number, total: told.append(what),
    )
    apart = [one for one in found.evaluated if one.label.prompts is not None]
    assert apart and len(apart) < len(found.evaluated)
    assert all(one.cards == 4 for one in found.evaluated)
    assert all(one.summary.handover is not None for one in apart)
    assert any("memory" in what for what in told)
    assert any("for prompts" in what for what in told)


def test_a_search_simulates_fewer_requests_of_the_same_load() -> None:
    long = replace(LOAD, requests=100_000)
    assert shortened(long) == replace(LOAD, requests=1000)
    assert shortened(LOAD) == LOAD
    users = replace(LOAD, rate=None, concurrency=700, requests=100_000)
    assert shortened(users).requests == 2100
