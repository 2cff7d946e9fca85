"""Requests: when they come, what they share, and that nothing else is shared."""

from dataclasses import replace
from itertools import pairwise
from statistics import fmean, pstdev

import pytest

from pieria.plan.lengths import Lengths
from pieria.plan.trace_file import Recorded
from pieria.plan.traffic import NEVER, Ask, WorkloadTraffic
from pieria.plan.workload import Workload

SHORT = {"input": Lengths("fixed", 40), "output": Lengths("fixed", 5)}


def every(load: Workload, seconds: float = 0.0) -> list[Ask]:
    """All requests, each answered `seconds` after it came."""
    traffic = WorkloadTraffic(load)
    found: list[Ask] = []
    running: list[Ask] = []
    while traffic.due < NEVER or running:
        while running and running[0].at + seconds <= traffic.due:
            ask = running.pop(0)
            traffic.ended(ask, ask.at + seconds)
        if traffic.due < NEVER:
            found.append(traffic.take())
            running.append(found[-1])
    return found


def shared(one: Ask, other: Ask) -> int:
    """Tokens that both begin with."""
    same = [a == b for a, b in zip(one.tokens, other.tokens, strict=False)]
    return same.index(False) if False in same else len(same)


def test_arrivals_are_random_at_the_rate() -> None:
    asks = every(Workload(rate=4.0, requests=8000, **SHORT))
    gaps = [b.at - a.at for a, b in pairwise(asks)]
    assert fmean(gaps) == pytest.approx(0.25, rel=0.03)
    assert pstdev(gaps) == pytest.approx(0.25, rel=0.05), "exponential: deviation equals mean"


def test_arrivals_may_be_even() -> None:
    asks = every(Workload(rate=4.0, is_even=True, requests=5, **SHORT))
    assert [ask.at for ask in asks] == [0, 0.25, 0.5, 0.75, 1.0]


def test_a_duration_ends_it() -> None:
    asks = every(Workload(rate=50.0, requests=None, duration=4.0, **SHORT))
    assert 150 < len(asks) < 250
    assert asks[-1].at < 4.0


def test_a_trace_keeps_its_times_and_lengths() -> None:
    trace = Recorded("t", (0.0, 1.5, 1.5), (10, 1, 300), (5, 6, 7))
    asks = every(Workload(trace=trace, requests=3))
    assert [(a.at, len(a.tokens), a.answer) for a in asks] == [
        (0, 10, 5),
        (1.5, 1, 6),
        (1.5, 300, 7),
    ]


def test_users_ask_again_when_they_are_answered() -> None:
    asks = every(Workload(concurrency=3, requests=10, think=1.0, **SHORT), seconds=2.0)
    assert [ask.at for ask in asks] == [0, 0, 0, 3, 3, 3, 6, 6, 6, 9]
    assert len({ask.id for ask in asks}) == 10


def test_a_conversation_goes_on_from_all_that_was_said() -> None:
    asks = every(Workload(concurrency=1, turns=3, requests=7, think=1.0, **SHORT), seconds=1.0)
    first, second, third, other = asks[:4]
    assert [ask.turn for ask in asks] == [0, 1, 2, 0, 1, 2, 0]
    said = (*first.tokens, *(first.token,) * 5)
    assert second.tokens[:45] == said
    assert len(second.tokens) == 45 + 40
    assert third.tokens[:90] == (*second.tokens, *(second.token,) * 5)
    assert shared(first, other) < 4


def test_nothing_is_shared_by_itself() -> None:
    asks = every(Workload(rate=1.0, requests=200, **SHORT))
    assert len({ask.tokens[:2] for ask in asks}) == 200


def test_prefixes_are_shared_within_their_groups_alone() -> None:
    asks = every(Workload(rate=1.0, requests=120, prefix=25, prefixes=3, **SHORT))
    groups = {ask.tokens[:25] for ask in asks}
    assert len(groups) == 3
    assert len({group[0] for group in groups}) == 3
    same = [a for a in asks if a.tokens[:25] == asks[0].tokens[:25]][1]
    assert 25 <= shared(asks[0], same) < 27
    assert all(len(ask.tokens) == 40 for ask in asks)


def test_a_prompt_shorter_than_its_prefix() -> None:
    load = Workload(rate=1.0, requests=20, prefix=100, input=Lengths("fixed", 10))
    assert all(len(ask.tokens) == 10 for ask in every(load))


def test_long_prompts_are_as_long_as_they_should_be() -> None:
    load = Workload(rate=1.0, requests=3, input=Lengths("fixed", 300_000))
    assert [len(ask.tokens) for ask in every(load)] == [300_000] * 3


def test_the_same_seed_is_the_same_traffic() -> None:
    load = Workload(rate=1.0, requests=50, input=Lengths("exponential", 50))
    assert every(load) == every(load)
    assert every(load) != every(replace(load, seed=1))


def test_an_ask_as_the_engine_takes_it() -> None:
    ask = every(Workload(rate=1.0, requests=1, **SHORT))[0]
    assert (ask.add.id, ask.add.tokens, ask.add.max_tokens) == (ask.id, ask.tokens, 5)
    assert ask.add.params.ignore_eos
