"""From a pool that computes prompts to one that makes answers: how what is remembered of a prompt
gets there.

It arrives in the pages of the other replica's prefix cache, as if that had computed them, and the
request then finds it there: so the scheduler needs to know nothing of it. The tokens after the last
full page are computed again, as after any prefix hit. Knows the prefix cache. Does not know wires:
how long sending takes is a function that is given.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pieria.engine.prefix_cache import ABSENT, Table
from pieria.engine.scheduler import Scheduler
from pieria.plan.replica import Pool

KEY = ("", "")

SPARE = 2
"""Pages in each table that stay free for each request, so that what was received can begin."""


@dataclass(frozen=True)
class Handover:
    """pool: where answers are made. seconds: that what is remembered of so many tokens takes to get
    there from one replica, which sends one after the other.
    """

    pool: Pool
    seconds: Callable[[int], float]

    def __post_init__(self) -> None:
        if not self.pool.replica.scheduler.enable_prefix_caching:
            raise ValueError(
                "enable_prefix_caching=False: prompts are handed over through the prefix cache"
            )


@dataclass
class _Held:
    tables: list[Table]
    states: list[int]


class Receiver:
    """Takes what arrives for one replica, in its order, as room is there.

    It is held until its request has begun, which then holds it itself.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.cache = scheduler.cache
        self._waiting: deque[tuple[str, Sequence[int], Callable[[], None]]] = deque()
        self._held: dict[str, _Held] = {}

    def known(self, tokens: Sequence[int]) -> int:
        """Tokens of a prompt that need not be sent, as they are here."""
        return self.cache.matched_tokens(KEY, tokens)

    def take(self, id: str, tokens: Sequence[int], begin: Callable[[], None]) -> None:
        """`begin` is called when it is in the cache."""
        self._waiting.append((id, tokens, begin))

    def admit(self) -> None:
        """Put into the cache what has room there."""
        while self._waiting and self._put(*self._waiting[0][:2]):
            self._waiting.popleft()[2]()

    def seen(self, id: str) -> None:
        """This request has begun."""
        held = self._held.pop(id, None)
        if held is not None:
            self.cache.release(held.tables)
            self.cache.states.release(held.states)

    def _put(self, id: str, tokens: Sequence[int]) -> bool:
        cache, stats = self.cache, self.scheduler.stats
        pages = len(tokens) // cache.page_tokens
        requests = stats.running + stats.waiting
        stateful = cache.states.count > 0
        spare = SPARE * (requests + 1) * len(cache.windows)
        most = min(spare, cache.pages.count - pages * len(cache.windows))
        found = cache.match(KEY, (*tokens[: pages * cache.page_tokens], ABSENT))
        missing = pages - found.pages
        enough = missing * len(cache.windows) + (most if requests else 0)
        states = [] if found.state == ABSENT else [found.state]
        if enough > cache.pages.available or (stateful and cache.states.available < 3):
            cache.release(found.tables)
            cache.states.release(states)
            return False
        if missing:
            cache.extend(found.tables, missing)
            cache.states.release(states)
            state = cache.states.take(1)[0] if stateful else ABSENT
            state = cache.publish(KEY, tokens, found.tables, found.pages, pages, state)
            cache.slide(found.tables, pages * cache.page_tokens)
            states = [] if state == ABSENT else [state]
        if pages:
            self._held[id] = _Held(found.tables, states)
        return True
