"""Ranks: lower is served first."""

import pytest

from pieria.engine.messages import Add
from pieria.engine.policies import POLICIES, Policy, fcfs, longest_prefix, priority
from pieria.engine.prefix_cache import PrefixCache, Table
from pieria.engine.request import Request
from pieria.engine.sampling_params import SamplingParams


def request(
    arrival: int, priority: int = 0, tokens: tuple[int, ...] = (9,), salt: str = ""
) -> Request:
    add = Add(str(arrival), tokens, SamplingParams(), 0, 4, priority=priority, salt=salt)
    return Request(add, arrival)


def order(policy: Policy, cache: PrefixCache, *requests: Request) -> list[int]:
    return [r.arrival for r in sorted(requests, key=lambda r: policy(r, cache))]


def publish(cache: PrefixCache, tokens: list[int]) -> None:
    tables = [Table()]
    cache.extend(tables, len(tokens) // 2)
    cache.publish(("", ""), tokens, tables, 0, len(tokens) // 2)


@pytest.fixture
def cache() -> PrefixCache:
    """Holds the pages (1, 2) and (1, 2, 3, 4) of salt ""."""
    cache = PrefixCache(8, 2)
    publish(cache, [1, 2, 3, 4])
    return cache


def test_every_policy_is_offered_by_its_name() -> None:
    assert list(POLICIES.items()) == [
        ("fcfs", fcfs),
        ("priority", priority),
        ("longest_prefix", longest_prefix),
    ]


def test_fcfs(cache: PrefixCache) -> None:
    requests = request(2, -5), request(0, 5), request(1, tokens=(1, 2, 3))
    assert order(fcfs, cache, *requests) == [0, 1, 2]


def test_priority(cache: PrefixCache) -> None:
    requests = request(0, 5), request(1, -5), request(2, 0, (1, 2, 3)), request(3, -5)
    assert order(priority, cache, *requests) == [1, 3, 2, 0]


def test_longest_prefix(cache: PrefixCache) -> None:
    requests = (
        request(0),
        request(1, tokens=(1, 2, 9)),
        request(2, tokens=(1, 2, 3, 4, 5)),
        request(3, tokens=(1, 2, 3, 4)),
        request(4, -9),
        request(5, tokens=(1, 2, 3, 4, 5), salt="another"),
    )
    assert order(longest_prefix, cache, *requests) == [2, 1, 3, 0, 4, 5]


def test_ranks_hold_no_pages(cache: PrefixCache) -> None:
    held = cache.pages.held
    for policy in POLICIES.values():
        policy(request(0, tokens=(1, 2, 3, 4, 5)), cache)
    assert cache.pages.held == held


@pytest.mark.parametrize("policy", [fcfs, priority])
def test_a_rank_that_orders_running_requests_does_not_change(
    policy: Policy, cache: PrefixCache
) -> None:
    one = request(3, 1, (1, 2, 3))
    before = policy(one, cache)
    one.tokens += [4, 5, 6]
    one.computed = 5
    publish(cache, [1, 2, 3, 4, 5, 6])
    assert policy(one, cache) == before
