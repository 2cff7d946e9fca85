"""Seats and turns between tenants, and counts that are set right when nothing is to be done."""

import logging
from collections.abc import Callable

import pytest

from pieria.engine.engine import Engine
from pieria.engine.messages import Add
from pieria.engine.prefix_cache import PrefixCache
from pieria.engine.request import Request
from pieria.engine.sampling_params import SamplingParams
from pieria.engine.scheduler import Scheduler, SchedulerConfig
from tests.engine.toy import ToyRunner, alone

NO_STOPS: frozenset[int] = frozenset()


def engine(seats: int = 4, tokens: int = 16, pages: int = 200, **options: object) -> Engine:
    config = SchedulerConfig(max_num_seqs=seats, max_num_batched_tokens=tokens, **options)
    scheduler = Scheduler(config, PrefixCache(pages, 4), NO_STOPS, 200)
    return Engine(scheduler, ToyRunner(pages, 4))


def add(id: str, tenant: str, share: float = 1.0, max_tokens: int = 40, prompt: int = 4) -> Add:
    tokens = tuple((len(id) + i) % 9 for i in range(prompt))
    return Add(id, tokens, SamplingParams(), 7, max_tokens, tenant=tenant, share=share)


def test_who_floods_makes_another_wait_for_a_step() -> None:
    made = engine()
    flood = [add(f"f{i}", "flood") for i in range(40)]
    for message in flood:
        made.add(message)
    for _ in range(5):
        made.step()
    quiet = add("quiet", "quiet", max_tokens=5)
    made.add(quiet)
    news = [output for output in made.step() if output.id == "quiet"]
    assert len(news) == 1 and news[0].tokens, "its first token comes with the next step"
    made.scheduler.check()
    stories: dict[str, list[int]] = {m.id: [] for m in (*flood, quiet)}
    stories["quiet"] += news[0].tokens
    finished = set()
    while not made.idle:
        for output in made.step():
            stories[output.id] += output.tokens
            finished |= {output.id} if output.finish_reason else set()
        made.scheduler.check()
    assert stories["quiet"] == alone(quiet, NO_STOPS).tokens
    assert finished == set(stories)


@pytest.mark.parametrize("shares", [(1.0, 1.0), (3.0, 1.0)])
def test_service_is_in_proportion_to_shares(shares: tuple[float, float]) -> None:
    made = engine(seats=8)
    for i in range(200):
        for tenant, share in zip("ab", shares, strict=True):
            made.add(add(f"{tenant}{i}", tenant, share, max_tokens=10))
    served = {"a": 0, "b": 0}
    for _ in range(150):
        for output in made.step():
            served[output.id[0]] += len(output.tokens)
    assert served["a"] / served["b"] == pytest.approx(shares[0] / shares[1], rel=0.15)


def test_one_tenant_is_served_first_come_first_served() -> None:
    made = engine(seats=1)
    for i in range(5):
        made.add(add(f"{i}", "one", max_tokens=2))
    order = []
    while not made.idle:
        order += [output.id for output in made.step() if output.finish_reason]
    assert order == ["0", "1", "2", "3", "4"]


def test_priority_goes_before_shares() -> None:
    made = engine(seats=1, scheduling_policy="priority")
    made.add(add("running", "a", max_tokens=3))
    made.step()
    low, high = add("low", "b"), add("high", "a")
    made.add(low)
    made.add(Add(high.id, high.tokens, high.params, 7, 3, tenant="a", priority=-1))
    order: list[str] = []
    while len(order) < 2:
        order += [output.id for output in made.step() if output.finish_reason]
    assert order == ["running", "high"]


def lost_pages(scheduler: Scheduler) -> None:
    scheduler.cache.pages.take(3)


def page_without_tokens(scheduler: Scheduler) -> None:
    scheduler.cache._of_page.popitem()


def seat_of_nobody(scheduler: Scheduler) -> None:
    next(iter(scheduler._waiting._accounts.values())).running += 1


def request_that_is_gone(scheduler: Scheduler) -> None:
    scheduler._running.append(Request(add("ghost", "t"), 0))


@pytest.mark.parametrize(
    "damage", [lost_pages, page_without_tokens, seat_of_nobody, request_that_is_gone]
)
def test_what_does_not_agree_is_set_right_and_told(
    damage: Callable[[Scheduler], None], caplog: pytest.LogCaptureFixture
) -> None:
    made = engine()
    made.add(add("a", "t", max_tokens=12))
    while not made.idle:
        made.step()
    made.rest()
    assert made.stats.repairs == 0 and made.stats.pages_cached > 0
    made.add(add("b", "t", max_tokens=2))
    while not made.idle:
        made.step()
    damage(made.scheduler)
    with caplog.at_level(logging.ERROR):
        made.rest()
    assert made.stats.repairs == 1 and made.stats.pages_held == 0
    assert "do not agree" in caplog.text and "b came" in caplog.text
    message = add("c", "t", max_tokens=6)
    made.add(message)
    tokens: list[int] = []
    while not made.idle:
        for output in made.step():
            tokens += output.tokens
    assert tokens == alone(message, NO_STOPS).tokens
    made.rest()
    assert made.stats.repairs == 1
    made.scheduler.check()
