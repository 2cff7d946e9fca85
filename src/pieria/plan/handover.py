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

from pieria.engine.pages import most_pages
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


class Receiver:
    """Takes what arrives for one replica, in its order, as room is there.

    It is held until its request has begun, which then holds it itself, or until those that run need
    its room to go on.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.cache = scheduler.cache
        self._waiting: deque[tuple[str, Sequence[int], Callable[[], None]]] = deque()
        self._held: dict[str, list[Table]] = {}

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
        self.cache.release(self._held.pop(id, []))

    def let_go(self) -> None:
        """Hold nothing any more, so that others can go on; what is lost is computed again."""
        for id in list(self._held):
            self.seen(id)

    def _put(self, id: str, tokens: Sequence[int]) -> bool:
        """False if there is no room now. There is always some for the first."""
        cache, stats, n = self.cache, self.scheduler.stats, self.cache.page_tokens
        pages = len(tokens) // n
        if pages == 0:
            return True
        found = cache.match(KEY, (*tokens[: pages * n], ABSENT))
        # States stay in the cache by themselves: those who run need all that are not theirs.
        if found.state != ABSENT:
            cache.states.release([found.state])
        requests = stats.running + stats.waiting
        missing = most_pages(cache.windows, n, (pages - found.pages) * n, n)
        spare = SPARE * (requests + 1) * len(cache.windows) if requests else 0
        if missing + spare > cache.pages.available:
            cache.release(found.tables)
            return False
        self._fill(found.tables, tokens, found.pages, pages)
        self._held[id] = found.tables
        return True

    def _fill(self, tables: list[Table], tokens: Sequence[int], first: int, last: int) -> None:
        """Publish pages [first, last), one after the other, as windows let go of those before."""
        cache = self.cache
        for page in range(first, last):
            cache.extend(tables, 1)
            is_end = cache.states.count > 0 and page == last - 1
            state = cache.states.take(1)[0] if is_end else ABSENT
            state = cache.publish(KEY, tokens, tables, page, page + 1, state)
            cache.slide(tables, (page + 1) * cache.page_tokens)
            if is_end:
                cache.states.release([state])
