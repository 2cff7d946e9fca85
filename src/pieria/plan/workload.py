"""Which requests come, as a user describes them: rates, lengths, shared beginnings, conversations.

Knows descriptions. `traffic` makes requests of them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any

from pieria.plan.lengths import FORMS, Lengths, lengths
from pieria.plan.pairs import count, number, pairs, seconds
from pieria.plan.trace_file import Recorded, recorded

REQUESTS = 1000
"""Where nothing says when to end."""

HELP = f"""\
who asks for what, as NAME=VALUE,NAME=VALUE; or the path of a trace alone.
When: rate=20 (conversations that begin in a second, at random times; arrivals=even: evenly), or
concurrency=64 (users who ask again when they are answered), or trace=FILE.csv with times of its
own. What: trace=FILE.csv, or input= and output= tokens, each {FORMS}; prefix=1000 of the input are
one of prefixes=8 shared beginnings; turns=4 requests make a conversation, think=5s apart.
Until: requests=1000 or duration=1h. seed=0 says which random numbers."""


@dataclass(frozen=True)
class Workload:
    """rate: conversations a second that begin at random times, or evenly; concurrency: users who
    begin one when they end one. Neither: at the trace's own times.

    input: new tokens of each prompt, the first `prefix` of a conversation shared with others.
    turns: requests of a conversation, each on all that was said before, `think` seconds apart.
    requests, duration: how many there are, or how long new ones come; the earlier one ends it.
    """

    rate: float | None = None
    concurrency: int | None = None
    is_even: bool = False
    trace: Recorded | None = None
    input: Lengths = Lengths("fixed", 1024)
    output: Lengths = Lengths("fixed", 256)
    prefix: int = 0
    prefixes: int = 1
    turns: int = 1
    think: float = 0.0
    requests: int | None = REQUESTS
    duration: float | None = None
    seed: int = 0

    def lengths(self) -> Iterator[tuple[int, int]]:
        """(new tokens of the prompt, tokens of the answer) of each request, without end."""
        if self.trace is not None:
            return cycle(zip(self.trace.prompts, self.trace.answers, strict=True))
        random = Random(self.seed)
        return zip(self.input.draws(random), self.output.draws(random), strict=True)

    def mean_lengths(self, of: int = 1000) -> tuple[float, float]:
        """Means of the first requests' lengths, as `lengths` has them."""
        drawn = self.lengths()
        both = [next(drawn) for _ in range(of)]
        return sum(p for p, _ in both) / of, sum(a for _, a in both) / of

    @property
    def longest(self) -> int:
        """Tokens of the longest request's prompt and answer, among the first."""
        drawn = self.lengths()
        found = [sum(next(drawn)) for _ in range(4096)]
        return max(found) if self.turns == 1 else sum(sorted(found)[-self.turns :])

    @property
    def expected(self) -> int:
        """About how many requests there are."""
        by_time = float("inf")
        if self.duration is not None and self.rate is not None:
            by_time = self.duration * self.rate * self.turns
        return int(min(by_time, self.requests or by_time, 1e9))

    def __str__(self) -> str:
        if self.rate is not None:
            when = f"{self.rate:g}/s"
        elif self.concurrency is not None:
            when = f"{self.concurrency} users"
        else:
            when = "at its own times"
        what = self.trace.name if self.trace else f"{self.input} in, {self.output} out"
        more = f", {self.prefix} shared" if self.prefix else ""
        more += f", {self.turns} turns" if self.turns > 1 else ""
        end = f"{self.requests} requests" if self.requests is not None else ""
        until = f"{self.duration:g} s" if self.duration is not None else ""
        return f"{what}{more}, {when}, {' or '.join(filter(None, (end, until)))}"


def workload(text: str) -> Workload:
    """From what `HELP` describes. ValueError naming what is wrong; OSError if there is no trace."""
    if "=" not in text:
        text = f"trace={text}"
    written = pairs(text, _READ, "workload")
    given: dict[str, Any] = {n: _READ[n](t, f"workload: {n}") for n, t in written.items()}
    for one, other in (("rate", "concurrency"), ("input", "trace"), ("output", "trace")):
        if one in given and other in given:
            raise ValueError(f"workload: {one} and {other} exclude each other")
    trace: Recorded | None = given.get("trace")
    if "rate" not in given and "concurrency" not in given:
        if trace is None or trace.arrivals is None:
            of = f"; {trace.name} has no times of its own" if trace else ""
            raise ValueError(f"workload: rate or concurrency is needed, such as rate=2{of}")
        given.setdefault("requests", None if "duration" in given else len(trace.prompts))
    elif "duration" in given:
        given.setdefault("requests", None)
    given["is_even"] = given.pop("arrivals", False)
    return Workload(**given)


def _is_even(text: str, where: str) -> bool:
    if text not in ("poisson", "even"):
        raise ValueError(f"{where}={text!r}; there are: poisson, even")
    return text == "even"


_READ: dict[str, Callable[[str, str], Any]] = {
    "rate": number,
    "concurrency": count,
    "arrivals": _is_even,
    "trace": lambda text, where: recorded(Path(text)),
    "input": lengths,
    "output": lengths,
    "prefix": partial(count, least=0),
    "prefixes": count,
    "turns": count,
    "think": seconds,
    "requests": count,
    "duration": seconds,
    "seed": partial(count, least=0),
}
"""How each part is read."""
