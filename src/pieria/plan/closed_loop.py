"""So many users, each of whom asks again once it is answered: what serving benchmarks measure.

Knows how engines batch. Steps in which nothing changes but contexts are taken together, so that a
benchmark takes milliseconds; `simulate` runs the real scheduler step by step. Knows no model: what
steps take is given.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Literal

import numpy as np

StepSeconds = Callable[[list[int], list[int]], float]
"""(tokens of each request, where they start) -> seconds; where several ranks step together, of a
step in which all have as much to do."""


@dataclass(frozen=True)
class Load:
    """users ask for `answer` tokens on a prompt of `prompt`; in all `requests` times.

    least: lengths are drawn evenly between this share of them and all. cold_seconds: that the first
    step takes longer, where a server is not warmed up before it is measured.
    """

    users: int
    prompt: int
    answer: int
    requests: int
    least: float = 1.0
    cold_seconds: float = 0.0


@dataclass(frozen=True)
class Batching:
    """order: "mixed": prompts join the tokens of running requests in one step; "prompts": a step
    has either prompts or tokens of running requests, prompts first. budget: tokens of a step.
    chunked: prompts may be split, else they wait until they fit whole.
    running: most requests at once, of a rank. cache_tokens: that its cache holds.
    front_seconds, front_token: until the engine sees a request and the user a token, together, and
    for each token of the prompt. front_each: of that, what is done for one request after the other.
    pipelined: the host launches a step before it looks at the results of the one before, so that a
    request that comes during a step has to wait for the next one too; launch_seconds: how long it
    takes to launch a step with prompts.
    ranks: that have requests of their own and step together, each step as long as the longest of
    them; a request goes to the one that has the fewest.
    """

    order: Literal["mixed", "prompts"] = "mixed"
    budget: int = 8192
    chunked: bool = True
    running: int = 1024
    cache_tokens: float = float("inf")
    front_seconds: float = 0.0
    front_token: float = 0.0
    front_each: float = 0.0
    pipelined: bool = False
    launch_seconds: float = 0.0
    ranks: int = 1


@dataclass(frozen=True)
class Served:
    """Seconds to the first token, and for each token after it; means, and medians.

    tokens_per_second: of answers, in all. waited: whether a request had to wait for the cache or
    for others to end before it could start.
    """

    ttft: float
    tpot: float
    ttft_median: float
    tpot_median: float
    tokens_per_second: float
    waited: bool


@dataclass
class _Request:
    arrived: float
    seen: float
    prompt: int
    answer: int
    computed: int = 0
    made: int = 0
    first: float = 0.0
    last: float = 0.0


@dataclass
class _Rank:
    """Requests of one rank. fresh: those whose first token the step before made."""

    fresh: list[_Request] = field(default_factory=list)
    waiting: deque[_Request] = field(default_factory=deque)
    prompts: list[_Request] = field(default_factory=list)
    running: list[_Request] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.waiting) + len(self.prompts) + len(self.running)


@dataclass
class _State:
    """now: when the device is free. host: when the host is, and takes up what it has seen by then.

    Both are those of all ranks.
    """

    ranks: list[_Rank]
    now: float = 0.0
    host: float = 0.0
    cold: float = 0.0
    done: list[_Request] = field(default_factory=list)
    waited: bool = False

    def ask(self, request: _Request) -> None:
        min(self.ranks, key=lambda rank: rank.count).waiting.append(request)


def serve(seconds: StepSeconds, load: Load, batching: Batching) -> Served:
    """ValueError if not even one request fits the cache."""
    if load.prompt + load.answer > batching.cache_tokens:
        raise ValueError(
            f"a request of {load.prompt + load.answer} tokens does not fit a cache of"
            f" {batching.cache_tokens:.0f}"
        )
    draw = np.random.default_rng(0)

    def length(most: int) -> int:
        return int(draw.integers(max(1, int(load.least * most)), most + 1))

    free = 0.0

    def ask(arrived: float) -> _Request:
        nonlocal free
        prompt = length(load.prompt)
        free = max(free, arrived) + batching.front_each
        seen = free + batching.front_seconds + prompt * batching.front_token
        return _Request(arrived, seen, prompt, length(load.answer))

    state = _State([_Rank() for _ in range(batching.ranks)], cold=load.cold_seconds)
    asked = min(load.users, load.requests)
    for _ in range(asked):
        state.ask(ask(0.0))
    while len(state.done) < load.requests:
        for rank in state.ranks:
            _admit(state, rank, batching)
        before = len(state.done)
        if any(rank.prompts for rank in state.ranks):
            _step(state, seconds, batching)
        else:
            next_seen = min(
                (r.seen for rank in state.ranks for r in rank.waiting), default=float("inf")
            )
            if any(rank.running for rank in state.ranks):
                _run(state, seconds, next_seen, batching.pipelined)
            else:
                # Of each rank the first: requests start in the order in which they came.
                first_seen = min(r.waiting[0].seen for r in state.ranks if r.waiting)
                state.now = state.host = max(state.now, first_seen)
        for _ in range(len(state.done) - before):
            if asked < load.requests:
                state.ask(ask(state.now))
                asked += 1
    done = state.done
    ttfts = [r.first - r.arrived for r in done]
    tpots = [(r.last - r.first) / (r.answer - 1) for r in done if r.answer > 1] or [0.0]
    made = sum(r.answer for r in done)
    return Served(
        fmean(ttfts), fmean(tpots), median(ttfts), median(tpots), made / state.now, state.waited
    )


def _admit(state: _State, rank: _Rank, batching: Batching) -> None:
    """Requests that the engine sees and has room for, in the order in which they came."""
    held = sum(r.prompt + r.answer for r in (*rank.prompts, *rank.running))
    while rank.waiting:
        request = rank.waiting[0]
        if request.seen > state.host:
            return
        count = len(rank.prompts) + len(rank.running)
        if count >= batching.running or held + request.prompt + request.answer > (
            batching.cache_tokens
        ):
            state.waited = True
            return
        rank.prompts.append(rank.waiting.popleft())
        held += request.prompt + request.answer


@dataclass(frozen=True)
class _Part:
    """What one rank does in a step: a token of each of `decoding`, and so many of prompts."""

    decoding: list[_Request]
    taken: list[tuple[_Request, int]]

    def seconds(self, seconds: StepSeconds) -> float:
        """0 for a rank that has nothing to do: it takes as long as the others."""
        queries = [1] * len(self.decoding) + [count for _, count in self.taken]
        starts = [r.prompt + r.made - 1 for r in self.decoding]
        starts += [request.computed for request, _ in self.taken]
        return seconds(queries, starts) if queries else 0.0


def _part(rank: _Rank, batching: Batching) -> _Part:
    alone = batching.order == "prompts" and bool(rank.prompts)
    decoding = [] if alone else rank.running
    room = batching.budget - len(decoding)
    taken: list[tuple[_Request, int]] = []
    for request in rank.prompts:
        left = request.prompt - request.computed
        count = min(left, room)
        if count <= 0 or (count < left and not batching.chunked and taken):
            break
        if not batching.chunked:
            count = left
        taken.append((request, count))
        room -= count
    return _Part(decoding, taken)


def _step(state: _State, seconds: StepSeconds, batching: Batching) -> None:
    """One step with prompts of any rank in it."""
    parts = [_part(rank, batching) for rank in state.ranks]
    before, launched = state.now, state.host + batching.launch_seconds
    longest = max(part.seconds(seconds) for part in parts)
    state.now = max(before + longest + state.cold, launched)
    state.cold = 0.0
    state.host = max(before, launched) if batching.pipelined else state.now
    for rank, part in zip(state.ranks, parts, strict=True):
        if batching.pipelined:
            for request in rank.fresh:
                request.first = max(request.first, launched)
        rank.fresh = []
        for request in part.decoding:
            request.made += 1
            request.last = state.now
        for request, count in part.taken:
            request.computed += count
            if request.computed == request.prompt:
                request.made = 1
                request.first = request.last = state.now
                rank.running.append(request)
                rank.fresh.append(request)
        rank.prompts = [r for r in rank.prompts if r.computed < r.prompt]
    _finish(state)


def _run(state: _State, seconds: StepSeconds, until: float, pipelined: bool) -> None:
    """Steps of single tokens, until a request ends or another one is seen."""
    count = min(r.answer - r.made for rank in state.ranks for r in rank.running)
    first = _longest(state, seconds, 0)
    if until < float("inf"):
        count = max(1, min(count, int((until - state.host) / first) + 1))
    last = _longest(state, seconds, count - 1) if count > 1 else first
    state.now += count * (first + last) / 2
    state.host = state.now - last if pipelined else state.now
    for rank in state.ranks:
        rank.fresh = []
        for request in rank.running:
            request.made += count
            request.last = state.now
    _finish(state)


def _longest(state: _State, seconds: StepSeconds, later: int) -> float:
    """Of a step of single tokens so many steps from now."""
    return max(
        seconds([1] * len(rank.running), [r.prompt + r.made - 1 + later for r in rank.running])
        for rank in state.ranks
        if rank.running
    )


def _finish(state: _State) -> None:
    for rank in state.ranks:
        ended = [r for r in rank.running if r.made >= r.answer]
        if ended:
            state.done += ended
            rank.running = [r for r in rank.running if r.made < r.answer]
