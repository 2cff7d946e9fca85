"""What serving came to: times of requests, use of the cache, and how both went over time.

Data only, in seconds, tokens and pages.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Quantiles:
    """Of some times, in seconds: their mean and percentiles; all 0 if there are none."""

    count: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    most: float

    @staticmethod
    def of(values: Sequence[float], times: Sequence[int] | None = None) -> "Quantiles":
        """times: how often each occurs; default: once. A percentile is a value that occurs."""
        found = np.asarray(values, float)
        if not found.size:
            return Quantiles(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        weights = np.ones(found.size) if times is None else np.asarray(times, float)
        order = np.argsort(found)
        found, weights = found[order], weights[order]
        reached = np.cumsum(weights)
        at = [min(np.searchsorted(reached, p * reached[-1]), found.size - 1) for p in PERCENTILES]
        p50, p90, p95, p99 = (float(found[i]) for i in at)
        mean = float((found * weights).sum() / reached[-1])
        return Quantiles(round(reached[-1]), mean, p50, p90, p95, p99, float(found[-1]))


PERCENTILES = (0.5, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class Served:
    """One request that was answered to its end; all times since the simulation's beginning.

    started: when its first step began. cached: tokens of its prompt that were found. gap: the
    longest wait for a token after the first. pool: 0, or where its first token was made.
    """

    id: str
    arrived: float
    started: float
    first: float
    last: float
    prompt: int
    answer: int
    cached: int
    gap: float
    replica: int

    @property
    def ttft(self) -> float:
        return self.first - self.arrived

    @property
    def tpot(self) -> float:
        """Of the tokens after the first; 0 if there are none."""
        return (self.last - self.first) / (self.answer - 1) if self.answer > 1 else 0.0

    @property
    def total(self) -> float:
        return self.last - self.arrived


@dataclass(frozen=True)
class Refused:
    """A request that could not be served at all, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Sample:
    """All replicas of a pool at one time."""

    at: float
    running: int
    waiting: int
    pages_held: int
    pages_cached: int


@dataclass(frozen=True)
class StepSpan:
    """One step of one replica: when, with how many requests and tokens, from which context on."""

    replica: int
    begin: float
    seconds: float
    requests: int
    tokens: int
    context: int


@dataclass(frozen=True)
class PoolUse:
    """What the replicas of one pool did.

    busy: share of the time in which a step ran. running: mean of requests in a step; most_running:
    the most. pages: of all replicas; most_held: of them, the most in use at once. hits, queries:
    prompt tokens found in the prefix cache, and looked for.
    """

    name: str
    replicas: int
    steps: int
    busy: float
    running: float
    most_running: int
    most_waiting: int
    pages: int
    most_held: int
    preemptions: int
    queries: int
    hits: int
    samples: tuple[Sample, ...]
    timeline: tuple[StepSpan, ...]

    @property
    def hit_share(self) -> float:
        return self.hits / self.queries if self.queries else 0.0


@dataclass(frozen=True)
class Simulation:
    """seconds: from the first arrival to the last token. asked: requests, with those refused.

    ttft, tpot, total: of requests. gaps: between tokens of one request, of all tokens. queued: from
    arrival to its first step. good: requests that kept to the SLO. transferred: seconds that keys
    and values of a request took from one pool to the other, None without such pools.
    """

    seconds: float
    asked: int
    served: tuple[Served, ...]
    refused: tuple[Refused, ...]
    ttft: Quantiles
    tpot: Quantiles
    gaps: Quantiles
    total: Quantiles
    queued: Quantiles
    good: int
    prompt_tokens: int
    answer_tokens: int
    pools: tuple[PoolUse, ...]
    transferred: Quantiles | None = None

    @property
    def requests_per_second(self) -> float:
        return len(self.served) / self.seconds if self.seconds else 0.0

    @property
    def answer_tokens_per_second(self) -> float:
        return self.answer_tokens / self.seconds if self.seconds else 0.0

    @property
    def prompt_tokens_per_second(self) -> float:
        return self.prompt_tokens / self.seconds if self.seconds else 0.0

    @property
    def goodput(self) -> float:
        """Requests a second that kept to the SLO."""
        return self.good / self.seconds if self.seconds else 0.0

    @property
    def good_share(self) -> float:
        """Of all that were asked."""
        return self.good / self.asked if self.asked else 0.0
