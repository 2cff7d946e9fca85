"""Requests with their tokens, one after the other, as a workload describes them.

What is asked next may depend on when answers ended: a conversation goes on, a user asks again.
Knows requests as token ids. Does not know who serves them.

Texts are pieces of one long random text behind a number that tells conversations apart, so that
nothing is shared but what the workload says.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import Protocol

from pieria.engine.messages import Add
from pieria.engine.sampling_params import SamplingParams
from pieria.plan.workload import Workload

VOCABULARY = 30_000
"""Token ids are below it."""

TEXT_TOKENS = 1 << 17

NEVER = float("inf")

PARAMS = SamplingParams(temperature=0.0, max_tokens=None, ignore_eos=True)


@dataclass(frozen=True)
class Ask:
    """One request, at `at` seconds. Its answer is `answer` times the token `token`."""

    id: str
    at: float
    tokens: tuple[int, ...]
    answer: int
    token: int
    turn: int = 0

    @property
    def add(self) -> Add:
        """As the engine takes it."""
        return Add(self.id, self.tokens, PARAMS, 0, self.answer)


class Traffic(Protocol):
    """due: when the next request comes, as far as is known; NEVER if none is."""

    @property
    def due(self) -> float: ...

    def take(self) -> Ask:
        """The request that is due."""

    def ended(self, ask: Ask, now: float) -> None:
        """Its last token came. More may be due then, at `now` or later."""


@dataclass
class _Talk:
    """A conversation: what was said, and how many turns are to come."""

    number: int
    history: tuple[int, ...]
    turn: int = 0


class WorkloadTraffic:
    """A workload's requests; every instance gives the same."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self._random = Random(workload.seed + 1)
        self._lengths = workload.lengths()
        drawn = Random(workload.seed)
        self._text = tuple(drawn.randrange(VOCABULARY) for _ in range(TEXT_TOKENS))
        self._left = workload.requests if workload.requests is not None else 10**12
        self._until = workload.duration if workload.duration is not None else NEVER
        self._numbers = count()
        self._orders = count()
        self._due: list[tuple[float, int, _Talk]] = []
        self._talking: dict[str, _Talk] = {}
        self._arrivals = self._times()
        self._next_arrival()
        for _ in range(workload.concurrency or 0):
            self._later(0.0, self._talk())

    @property
    def due(self) -> float:
        return self._due[0][0] if self._due and self._left > 0 else NEVER

    def take(self) -> Ask:
        at, _, talk = heappop(self._due)
        if talk.turn == 0 and self.workload.concurrency is None:
            self._next_arrival()
        self._left -= 1
        prompt, answer = next(self._lengths)
        tokens = self._say(talk, prompt)
        ask = Ask(
            f"{talk.number}.{talk.turn}", at, tokens, answer, talk.number % VOCABULARY, talk.turn
        )
        talk.turn += 1
        if self.workload.turns > 1 or self.workload.concurrency is not None:
            self._talking[ask.id] = talk
        return ask

    def ended(self, ask: Ask, now: float) -> None:
        talk = self._talking.pop(ask.id, None)
        if talk is None:
            return
        if talk.turn < self.workload.turns:
            talk.history = (*ask.tokens, *(ask.token,) * ask.answer)
        elif self.workload.concurrency is not None:
            talk = self._talk()
        else:
            return
        self._later(now + self.workload.think, talk)

    def _later(self, at: float, talk: _Talk) -> None:
        if at < self._until:
            heappush(self._due, (at, next(self._orders), talk))

    def _talk(self) -> _Talk:
        return _Talk(next(self._numbers), ())

    def _next_arrival(self) -> None:
        at = next(self._arrivals, None)
        if at is not None:
            self._later(at, self._talk())

    def _times(self) -> Iterator[float]:
        """When conversations begin by themselves."""
        load = self.workload
        if load.rate is not None:
            for i in count() if load.is_even else ():
                yield i / load.rate
            at = 0.0
            while True:
                at += self._random.expovariate(load.rate)
                yield at
        elif load.concurrency is None and load.trace is not None:
            yield from load.trace.arrivals or ()

    def _say(self, talk: _Talk, count: int) -> tuple[int, ...]:
        """A prompt with so many new tokens."""
        if talk.history:
            return talk.history + self._part(self._random.randrange(TEXT_TOKENS), count)
        shared = min(self.workload.prefix, count)
        begin: tuple[int, ...] = ()
        if shared:
            # Shared texts are told apart by their first token, and from all others by it too.
            group = self._random.randrange(self.workload.prefixes)
            begin = (VOCABULARY + group, *self._part(group, shared - 1))
        own = divmod(talk.number, VOCABULARY)
        rest = self._part(self._random.randrange(TEXT_TOKENS), count)
        return (begin + own + rest)[:count]

    def _part(self, first: int, count: int) -> tuple[int, ...]:
        """So many tokens of the text, which is a circle."""
        part = self._text[first : first + count]
        while len(part) < count:
            part += self._text[: count - len(part)]
        return part
