"""What is measured: works as data, and their prompts. Knows no engine."""

import random
from dataclasses import dataclass
from typing import Literal

GREEDY_QUESTION = "<|im_start|>user\nName the capital of France.<|im_end|>\n<|im_start|>assistant\n"
GREEDY_ANSWER = "Paris"

Kind = Literal["decode", "prompt", "batch", "shared", "server", "start", "memory"]
Prompts = list[list[int]]


@dataclass(frozen=True)
class Measure:
    """One number of a work. key: in the results; unit: of the number. aim: what Pieria is to reach.

    An aim is a ratio to the best peer, above 1 where Pieria is ahead, unless it says otherwise.
    """

    key: str
    title: str
    unit: str
    higher_is_better: bool
    aim: str


def _rate(aim: str) -> tuple[Measure, ...]:
    return (Measure("rate", "", "tok/s", True, aim),)


def _seconds(aim: str) -> tuple[Measure, ...]:
    return (Measure("seconds", "", "s", False, aim),)


@dataclass(frozen=True)
class Work:
    """requests at once, each of shared + own prompt tokens, the shared ones alike, and output."""

    name: str
    title: str
    kind: Kind
    measures: tuple[Measure, ...]
    requests: int = 1
    shared: int = 0
    own: int = 0
    output: int = 1

    @property
    def tokens(self) -> int:
        return self.requests * (self.own + self.output)

    def prompts(self, vocabulary: int, salt: object) -> Prompts:
        """Random tokens; another salt gives others, so that no cache knows them."""
        draw = random.Random(f"{self.name}/{salt}")

        def tokens(count: int) -> list[int]:
            # The first ids are often special.
            return [draw.randrange(100, vocabulary) for _ in range(count)]

        shared = tokens(self.shared)
        return [shared + tokens(self.own) for _ in range(self.requests)]


PROMPT_AIMS = {512: "1.0", 2048: "1.05", 8192: "1.3", 16384: "1.3", 32768: "1.3"}
LIMITS_SECONDS = {"ttft": 10.0, "itl": 0.5}
"""What a request must keep to count as goodput; of its inter-token times, the 99th percentile."""


def _served(streams: int) -> tuple[Measure, ...]:
    if streams == 128:
        return (
            Measure("rate", ": output", "tok/s", True, "1.3"),
            Measure("goodput", ": requests within TTFT 10 s, ITL p99 500 ms", "/s", True, "1.0"),
        )
    aim = "1.0" if streams == 1 else "1.3"
    return (
        Measure("ttft", ": time to first token, p50", "ms", False, aim),
        Measure("itl", ": inter-token time, p50", "ms", False, aim),
    )


WORKS = (
    Work("decode", "decode, 1 stream", "decode", _rate("1.0"), own=32, output=129),
    *(
        Work(f"prompt-{n}", f"prompt of {n} tokens", "prompt", _rate(aim), own=n)
        for n, aim in PROMPT_AIMS.items()
    ),
    Work(
        "batch",
        "32 requests of 128 + 128 in process",
        "batch",
        _rate("1.2"),
        requests=32,
        own=128,
        output=128,
    ),
    Work(
        "shared",
        "32 requests sharing 1024 + 32 own, 32 out",
        "shared",
        _seconds("1.5"),
        requests=32,
        shared=1024,
        own=32,
        output=32,
    ),
    *(
        Work(
            f"server-{n}",
            f"server, {n} stream{'s' if n > 1 else ''} of 128 + 64",
            "server",
            _served(n),
            requests=n,
            own=128,
            output=64,
        )
        for n in (1, 32, 128)
    ),
    Work("start", "server start to first token", "start", _seconds("3 s"), own=32),
    Work(
        "memory",
        "server's peak memory less its cache",
        "memory",
        (Measure("mebibytes", " (PSS)", "MiB", False, "2.86"),),
        own=2048,
        output=8,
    ),
)
NAMES = tuple(work.name for work in WORKS)
