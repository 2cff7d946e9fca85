"""In what order requests are served: each policy is a function. Torch-free.

A policy gives a request's rank, and lower ranks are admitted first and preempted last. It must not
change as the request runs, but for `longest_prefix`, which looks at the cache and is asked only
about waiting requests.
"""

from collections.abc import Callable
from typing import Any

from pieria.engine.prefix_cache import PrefixCache
from pieria.engine.request import Request

Rank = tuple[Any, ...]
Policy = Callable[[Request, PrefixCache], Rank]


def fcfs(request: Request, cache: PrefixCache) -> Rank:
    """First come, first served."""
    return (request.arrival,)


def priority(request: Request, cache: PrefixCache) -> Rank:
    """Lower `priority` first, then first come."""
    return (request.add.priority, request.arrival)


def longest_prefix(request: Request, cache: PrefixCache) -> Rank:
    """Most tokens found in the prefix cache first. Long waits are possible."""
    return (-cache.matched_tokens(request.key, request.tokens), request.arrival)


POLICIES: dict[str, Policy] = {p.__name__: p for p in (fcfs, priority, longest_prefix)}
