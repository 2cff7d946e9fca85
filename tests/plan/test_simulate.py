"""Simulations against a naive loop on one clock, against queueing theory, and for their sums."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pieria.engine.engine import Engine
from pieria.engine.plan import ChunkResult, StepPlan
from pieria.engine.scheduler import SchedulerConfig
from pieria.plan.lengths import Lengths
from pieria.plan.outcome import Served, Simulation
from pieria.plan.replica import Front, Pool, PredictedRunner, Replica, VirtualTime
from pieria.plan.simulate import simulate
from pieria.plan.slo import Slo
from pieria.plan.traffic import Ask, WorkloadTraffic
from pieria.plan.workload import Workload
from tests.engine.profiles import STEADY

SMALL = Replica(SchedulerConfig(6, 64), pages=40, page_tokens=4, max_model_len=160)


def seconds(plan: StepPlan) -> float:
    return 0.01 + 0.002 * plan.tokens + 1e-4 * sum(chunk.start for chunk in plan.chunks)


def run(
    load: Workload, pool: Pool, slo: Slo | None = None, front: Front | None = None
) -> Simulation:
    return simulate(WorkloadTraffic(load), pool, slo, None, front)


class Given:
    """Requests at given times."""

    def __init__(self, asks: Sequence[Ask]) -> None:
        self.asks = list(asks)

    @property
    def due(self) -> float:
        return self.asks[0].at if self.asks else float("inf")

    def take(self) -> Ask:
        return self.asks.pop(0)

    def ended(self, ask: Ask, now: float) -> None:
        pass


def naive(asks: Sequence[Ask], replica: Replica) -> dict[str, tuple[float, float]]:
    """When the first and the last token of each came: the engine's own loop on one clock."""
    clock = VirtualTime()
    runner = PredictedRunner(
        seconds, lambda c: ChunkResult(c.request, 7 if c.draw else None), clock
    )
    engine = Engine(replica.start(), runner)
    coming = list(asks)
    found: dict[str, tuple[float, float]] = {}
    while coming or not engine.idle:
        if engine.idle:
            clock.at = max(clock.at, coming[0].at)
        while coming and coming[0].at <= clock.at:
            engine.add(coming.pop(0).add)
        for output in engine.step():
            if output.tokens:
                first, _ = found.get(output.id, (clock.at, 0.0))
                found[output.id] = first, clock.at
    return found


@STEADY
@given(
    st.lists(
        st.tuples(st.floats(0, 3), st.integers(1, 90), st.integers(1, 40)), min_size=1, max_size=25
    )
)
def test_one_replica_does_what_the_engines_own_loop_does(
    drawn: list[tuple[float, int, int]],
) -> None:
    asks = [
        Ask(str(i), at, tuple(range(i, i + prompt)), answer, 7)
        for i, (at, prompt, answer) in enumerate(sorted(drawn))
    ]
    found = simulate(Given(asks), Pool("all", SMALL, seconds))
    expected = naive(asks, SMALL)
    assert {s.id: (s.first, s.last) for s in found.served} == expected
    assert all(s.arrived <= s.started < s.first <= s.last for s in found.served)


def test_a_queue_waits_as_long_as_theory_says() -> None:
    """One seat, a constant service time s and random arrivals: the mean wait is
    rho s / 2 (1 - rho) (Pollaczek and Khinchine).
    """
    replica = Replica(SchedulerConfig(1, 64), 40, 4, 160)
    load = Workload(rate=0.5, input=Lengths("fixed", 8), output=Lengths("fixed", 1), requests=10000)
    found = run(load, Pool("all", replica, lambda plan: 1.0))
    assert found.queued.mean == pytest.approx(0.5 / (2 * 0.5), rel=0.06)
    assert found.pools[0].busy == pytest.approx(0.5, rel=0.03)


def test_users_in_a_circle_obey_littles_law() -> None:
    load = Workload(
        concurrency=5, input=Lengths("fixed", 8), output=Lengths("fixed", 9), requests=500
    )
    found = run(load, Pool("all", SMALL, seconds))
    assert found.requests_per_second * found.total.mean == pytest.approx(5, rel=0.02)
    assert found.pools[0].most_running == 5


LOADS = [
    Workload(
        rate=3.0, input=Lengths("uniform", 1, 60), output=Lengths("uniform", 1, 30), requests=80
    ),
    Workload(
        concurrency=7,
        input=Lengths("uniform", 5, 20),
        output=Lengths("fixed", 6),
        turns=3,
        prefix=4,
        think=0.5,
        requests=80,
    ),
]


@pytest.mark.parametrize("load", LOADS, ids=["open", "closed"])
@pytest.mark.parametrize("count", [1, 3])
def test_sums(load: Workload, count: int) -> None:
    found = run(load, Pool("all", SMALL, seconds, count))
    assert found.asked == len(found.served) == 80
    assert found.prompt_tokens == sum(s.prompt for s in found.served)
    assert found.answer_tokens == sum(s.answer for s in found.served)
    assert found.gaps.count == sum(s.answer - 1 for s in found.served)
    assert found.gaps.mean * found.gaps.count == pytest.approx(
        sum(s.last - s.first for s in found.served)
    )
    assert found.ttft.mean == pytest.approx(fmean(s.ttft for s in found.served))
    assert found.seconds == max(s.last for s in found.served) - min(s.arrived for s in found.served)
    use = found.pools[0]
    assert use.most_held <= use.pages == 40 * count
    assert 0 < use.busy <= 1
    assert use.hits == sum(s.cached for s in found.served)
    assert (use.hit_share > 0.15) == (load.turns > 1)
    assert [s.at for s in use.samples] == sorted(s.at for s in use.samples)
    assert all(s.running <= 6 * count for s in use.samples)


def test_the_same_again() -> None:
    assert run(LOADS[1], Pool("all", SMALL, seconds, 2)) == run(
        LOADS[1], Pool("all", SMALL, seconds, 2)
    )


def test_a_preempted_request_waits_longer_for_a_token() -> None:
    tight = replace(SMALL, pages=16)
    load = Workload(
        concurrency=6, input=Lengths("fixed", 20), output=Lengths("fixed", 30), requests=30
    )
    found = run(load, Pool("all", tight, seconds))
    roomy = run(load, Pool("all", replace(SMALL, pages=400), seconds))
    assert found.pools[0].preemptions > 0 == roomy.pools[0].preemptions
    assert found.gaps.most > 2 * roomy.gaps.most
    assert max(s.gap for s in found.served) == pytest.approx(found.gaps.most)


def test_what_can_never_be_served_is_refused_and_others_are_not() -> None:
    load = Workload(
        rate=1.0, input=Lengths("uniform", 100, 200), output=Lengths("fixed", 20), requests=50
    )
    found = run(load, Pool("all", SMALL, seconds))
    assert len(found.served) + len(found.refused) == found.asked == 50
    assert found.refused and found.served
    assert "the model's limit is 160" in found.refused[0].reason
    assert max(s.prompt for s in found.served) <= 140


def test_goodput_counts_requests_within_all_bounds() -> None:
    pool = Pool("all", SMALL, seconds)
    every = run(LOADS[0], pool).served

    def good(slo: Slo) -> int:
        return run(LOADS[0], pool, slo).good

    def within(test: Served) -> bool:
        return test.ttft <= 0.4 and test.tpot <= 0.05

    assert good(Slo()) == 80
    assert good(Slo(ttft=0.4, tpot=0.05)) == sum(map(within, every))
    assert 0 < good(Slo(ttft=0.4, tpot=0.05)) < 80
    assert good(Slo(total=0.0)) == 0


def test_replicas_share_the_load() -> None:
    answers = Lengths("uniform", 1, 100)
    load = Workload(rate=2.0, input=Lengths("fixed", 30), output=answers, requests=400)
    one = run(load, Pool("all", SMALL, seconds))
    two = run(load, Pool("all", SMALL, seconds, 2))
    turns = run(load, Pool("all", SMALL, seconds, 2, router="round_robin"))
    assert two.queued.mean < 0.8 * turns.queued.mean < 0.5 * one.queued.mean
    assert [s.replica for s in sorted(turns.served, key=lambda s: s.arrived)[:4]] == [0, 1, 0, 1]


def test_replicas_that_step_together_wait_for_the_slowest() -> None:
    """One has a long prompt, the other a short one: each step takes as long as the longer."""
    asks = [Ask("long", 0.0, (1,) * 60, 2, 7), Ask("short", 0.0, (2,) * 2, 2, 7)]
    alone = simulate(Given(asks), Pool("all", SMALL, seconds, 2))
    bound = simulate(Given(asks), Pool("all", SMALL, seconds, 2, together=2))
    times = {s.id: s.first for s in bound.served}
    assert times["long"] == times["short"]
    assert next(s.first for s in alone.served if s.id == "short") < times["short"]
    with pytest.raises(ValueError, match="3 replicas cannot step 2 at once"):
        Pool("all", SMALL, seconds, 3, together=2)
    with pytest.raises(ValueError, match="router='nearest'; there are: least_loaded, round_robin"):
        Pool("all", SMALL, seconds, router="nearest")


def test_the_front_takes_one_prompt_after_the_other() -> None:
    asks = [Ask(str(i), 0.0, (i,) * 10, 1, 7) for i in range(2)]
    pool = Pool("all", SMALL, lambda plan: 1e-6)
    found = simulate(Given(asks), pool, front=Front(seconds=2.0, token_seconds=0.1))
    assert [s.ttft for s in found.served] == pytest.approx([3.0, 4.0], abs=1e-4)


def test_progress_is_told() -> None:
    told: list[tuple[float, int]] = []
    load = replace(LOADS[0], requests=250)
    simulate(
        WorkloadTraffic(load),
        Pool("all", SMALL, seconds),
        progress=lambda now, ended: told.append((now, ended)),
    )
    assert [ended for _, ended in told] == [100, 200]
