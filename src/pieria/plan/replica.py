"""One scheduler with its cache, and the runner that only lets time pass.

Knows what a replica's scheduler must know, and clocks. Does not know models: what a step takes is a
function that is given.
"""

from collections.abc import Callable
from dataclasses import dataclass

from pieria.clock import Clock
from pieria.engine.pages import most_pages
from pieria.engine.plan import Chunk, ChunkResult, StepPlan, StepResult
from pieria.engine.prefix_cache import PrefixCache
from pieria.engine.scheduler import Scheduler, SchedulerConfig

StepSeconds = Callable[[StepPlan], float]
"""How long a step takes."""

Outcome = Callable[[Chunk], ChunkResult]
"""What comes of a chunk."""


@dataclass(frozen=True)
class Replica:
    """pages of page_tokens tokens, shared by page tables of these windows, and states of requests;
    max_model_len tokens a request.
    """

    scheduler: SchedulerConfig
    pages: int
    page_tokens: int
    max_model_len: int
    windows: tuple[int | None, ...] = (None,)
    states: int = 0

    def start(self, stop_ids: frozenset[int] = frozenset()) -> Scheduler:
        """The scheduler that serves, with nothing in its cache yet."""
        caching = self.scheduler.enable_prefix_caching
        cache = PrefixCache(self.pages, self.page_tokens, caching, self.windows, self.states)
        return Scheduler(self.scheduler, cache, stop_ids, self.max_model_len)

    def concurrent(self, context: int) -> int:
        """Most requests of so many tokens that the cache holds at once, whatever the seats."""
        step = self.scheduler.max_num_batched_tokens
        # A running request computes a token a step; the whole budget goes to one prompt at a time.
        each = most_pages(self.windows, self.page_tokens, context, 1)
        first = most_pages(self.windows, self.page_tokens, context, step)
        if context > self.max_model_len or first > self.pages:
            return 0
        held = 1 + (self.pages - first) // each
        return min(held, self.states // 2) if self.states else held

    @property
    def tokens(self) -> int:
        """Tokens that fit into the cache's pages, where layers see all of them."""
        return self.pages // len(self.windows) * self.page_tokens


ROUTERS = ("least_loaded", "round_robin")


@dataclass(frozen=True)
class Pool:
    """Replicas that are alike and share requests.

    together: so many of them step at once, each step as long as the longest among them, because
    they share experts. router: which replica a request goes to: the next one in turn, or the first
    of those with the fewest requests.
    """

    name: str
    replica: Replica
    seconds: StepSeconds
    count: int = 1
    together: int = 1
    router: str = "least_loaded"

    def __post_init__(self) -> None:
        if self.count % self.together:
            raise ValueError(
                f"{self.count} replicas cannot step {self.together} at once; their number must be a"
                f" multiple of {self.together}"
            )
        if self.router not in ROUTERS:
            raise ValueError(f"router={self.router!r}; there are: {', '.join(ROUTERS)}")


@dataclass(frozen=True)
class Front:
    """What lies between a user and the engine, both ways together.

    seconds: for each request, beside others; token_seconds: for each token of its prompt, one
    prompt after the other.
    """

    seconds: float = 0.0
    token_seconds: float = 0.0


class VirtualTime:
    """A clock that nobody waits for: it says what it was set to. `sleep` moves it on."""

    def __init__(self, at: float = 0.0) -> None:
        self.at = at

    def now(self) -> float:
        return self.at

    def wall(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds


class PredictedRunner:
    """Runs plans on a card that is not there: their time passes on `clock`."""

    def __init__(self, seconds: StepSeconds, outcome: Outcome, clock: Clock) -> None:
        self.seconds = seconds
        self.outcome = outcome
        self.clock = clock

    def run(self, plan: StepPlan) -> StepResult:
        self.clock.sleep(self.seconds(plan))
        return StepResult(tuple(map(self.outcome, plan.chunks)))

    def close(self) -> None:
        """There is nothing to release."""
