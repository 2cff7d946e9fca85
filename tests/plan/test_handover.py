"""From prompts' replicas to answers': pages arrive in the cache, and nobody is lost."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pieria.engine.messages import Add
from pieria.engine.plan import StepPlan
from pieria.engine.scheduler import SchedulerConfig
from pieria.plan.handover import Handover, Receiver
from pieria.plan.lengths import Lengths
from pieria.plan.outcome import Simulation
from pieria.plan.replica import Pool, Replica
from pieria.plan.simulate import simulate
from pieria.plan.traffic import PARAMS, WorkloadTraffic
from pieria.plan.workload import Workload
from tests.engine.profiles import STEADY

SMALL = Replica(SchedulerConfig(6, 64), pages=60, page_tokens=4, max_model_len=160)


def seconds(plan: StepPlan) -> float:
    return 0.01 + 0.002 * plan.tokens


def run(
    load: Workload,
    prompts: Replica = SMALL,
    answers: Replica = SMALL,
    counts: tuple[int, int] = (1, 1),
    token_seconds: float = 1e-4,
) -> Simulation:
    handover = Handover(Pool("answers", answers, seconds, counts[1]), lambda n: n * token_seconds)
    return simulate(
        WorkloadTraffic(load), Pool("prompts", prompts, seconds, counts[0]), None, handover
    )


def open_load(**options: object) -> Workload:
    plain = {"rate": 4.0, "input": Lengths("fixed", 30), "output": Lengths("fixed", 12)}
    return Workload(**{"requests": 60, **plain, **options})  # type: ignore[arg-type]


def test_the_first_token_is_made_by_one_pool_and_the_others_by_the_other() -> None:
    found = run(open_load(rate=0.2, requests=5))
    prompts, answers = found.pools
    assert (prompts.name, answers.name) == ("prompts", "answers")
    # One step each; on the other side a step for each token after the first.
    assert (prompts.steps, answers.steps) == (5, 5 * 11)
    assert [s.ttft for s in found.served] == pytest.approx([0.07] * 5)
    assert found.transferred is not None
    assert found.transferred.p50 == pytest.approx(30 * 1e-4)
    # 28 of 30 tokens are in full pages; the other two and the first token are computed there.
    assert answers.hits == 5 * 28
    step = 0.01 + 0.002 * 3
    assert [s.gap for s in found.served] == pytest.approx([30e-4 + step] * 5)


def test_answers_of_one_token_stay_where_they_are() -> None:
    found = run(open_load(output=Lengths("fixed", 1)))
    assert found.pools[1].steps == 0
    assert found.transferred is not None and found.transferred.count == 0
    assert len(found.served) == 60


def test_a_wire_is_used_by_one_prompt_at_a_time() -> None:
    found = run(open_load(rate=50.0), token_seconds=0.01)
    assert found.transferred is not None
    assert found.transferred.p50 == pytest.approx(0.3 * 30, rel=0.3), "the middle waits for half"


def test_what_the_other_side_knows_is_not_sent_again() -> None:
    load = open_load(turns=3, think=2.0, rate=0.3, requests=30)
    found = run(load, token_seconds=0.01)
    assert found.transferred is not None
    assert max(s.prompt for s in found.served) == 3 * 30 + 2 * 12
    assert found.transferred.p50 < 0.4


@STEADY
@given(
    st.integers(12, 60),
    st.integers(12, 60),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([((None,), 0), ((None, 6), 0), ((None,), 9)]),
    st.booleans(),
)
def test_everybody_is_served_however_little_room_there_is(
    first: int,
    last: int,
    prompts: int,
    answers: int,
    kind: tuple[tuple[int | None, ...], int],
    is_closed: bool,
) -> None:
    windows, states = kind
    shape = replace(SMALL, windows=windows, states=states, max_model_len=44)
    load = Workload(
        rate=None if is_closed else 20.0,
        concurrency=9 if is_closed else None,
        input=Lengths("uniform", 1, 30),
        output=Lengths("uniform", 1, 14),
        requests=40,
    )
    pages = len(windows)
    found = run(
        load,
        replace(shape, pages=first * pages),
        replace(shape, pages=last * pages),
        (prompts, answers),
    )
    assert len(found.served) == 40
    assert not found.refused
    assert all(s.first <= s.last for s in found.served)


def test_what_the_answers_side_can_never_hold_is_refused_at_once() -> None:
    found = run(open_load(), answers=replace(SMALL, pages=8))
    assert len(found.refused) == 60
    assert "the cache has 8 of 4 tokens" in found.refused[0].reason


def test_pages_are_handed_over_through_the_prefix_cache() -> None:
    without = Replica(SchedulerConfig(6, 64, enable_prefix_caching=False), 60, 4, 160)
    with pytest.raises(ValueError, match="enable_prefix_caching=False"):
        Handover(Pool("answers", without, seconds), lambda tokens: 0.0)


def test_a_receiver_holds_what_came_until_its_request_begins() -> None:
    scheduler = SMALL.start()
    receiver = Receiver(scheduler)
    tokens = tuple(range(30))
    receiver.take("a", tokens, lambda: scheduler.add(Add("a", (*tokens, 7), PARAMS, 0, 3)))
    receiver.admit()
    assert scheduler.stats.pages_held == 7
    (chunk,) = scheduler.plan().chunks
    assert (chunk.start, chunk.tokens) == (28, (28, 29, 7))
    receiver.seen("a")
    scheduler.check()
    assert receiver.known((*tokens, 9)) == 28
