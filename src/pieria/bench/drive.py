"""One load through the scheduler that serves, on whatever runner and clock: real or predicted.

Knows requests and their times. Does not know models, devices, or which of the two it is.
"""

from dataclasses import dataclass
from random import Random
from statistics import fmean

from pieria.clock import Clock
from pieria.engine.engine import Engine
from pieria.engine.messages import Add
from pieria.engine.plan import Runner
from pieria.engine.sampling_params import SamplingParams
from pieria.engine.scheduler import Scheduler

PARAMS = SamplingParams(temperature=1.0, max_tokens=None, ignore_eos=True)
"""Tokens are sampled: made-up weights that take the likeliest one repeat it without end, and with
it the experts that it goes to, whose weights then stay in a cache. Texts do not.
"""


@dataclass(frozen=True)
class Load:
    """users each ask `rounds` times, again once answered: prompts of least to most tokens."""

    name: str
    users: int
    rounds: int
    least: int
    most: int
    answer: int

    @property
    def cache_tokens(self) -> int:
        """Of all users at once, with room for what is not let go yet."""
        return 2 * self.users * (self.most + self.answer + 64)


@dataclass(frozen=True)
class Times:
    """throughput: tokens/s of answers. ttft, itl: mean seconds to the first token, and between."""

    throughput: float
    ttft: float
    itl: float


def drive(
    load: Load, scheduler: Scheduler, runner: Runner, clock: Clock, vocabulary: int, seed: int
) -> Times:
    """seed: of prompts' tokens; their lengths are the same for all. RuntimeError if one fails."""
    engine = Engine(scheduler, runner)
    lengths, texts = Random(0), Random(seed)
    asked: dict[str, float] = {}
    first: dict[str, float] = {}
    left = [load.rounds] * load.users
    ttfts, gaps = [], []

    def ask(user: int) -> None:
        name = f"{user}-{left[user]}"
        left[user] -= 1
        length = lengths.randint(load.least, load.most)
        tokens = tuple(texts.randrange(vocabulary) for _ in range(length))
        asked[name] = clock.now()
        engine.add(Add(name, tokens, PARAMS, 0, load.answer))

    begun = clock.now()
    for user in range(load.users):
        ask(user)
    while not engine.idle:
        outputs = engine.step()
        now = clock.now()
        for output in outputs:
            if output.error is not None:
                raise RuntimeError(f"request {output.id}: {output.error}")
            if output.tokens and output.id not in first:
                first[output.id] = now
                ttfts.append(now - asked[output.id])
            if output.finish_reason is not None:
                gaps.append((now - first[output.id]) / (load.answer - 1))
                user = int(output.id.partition("-")[0])
                if left[user]:
                    ask(user)
    made = load.users * load.rounds * load.answer
    return Times(made / (clock.now() - begun), fmean(ttfts), fmean(gaps))
