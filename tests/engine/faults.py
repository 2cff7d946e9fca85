"""Named places on a request's way through the engine at which a test lets it fail.

Only tests install them, by putting a wrapper in a function's place; nothing in the engine knows of
them. A fault strikes where the request with id `BAD` is looked at.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from pieria.engine import device_runner
from pieria.engine.device_runner import DeviceRunner
from pieria.engine.messages import Add
from pieria.engine.plan import Chunk, Draw
from pieria.engine.prefix_cache import PrefixCache
from pieria.engine.request import Request
from pieria.engine.scheduler import Scheduler

BAD = "bad"
SEED = 666
"""The bad request's seed, salt and id tell it from the others."""

POINTS: dict[str, tuple[Any, str]] = {
    "queue": (Scheduler, "add"),
    "admit": (Scheduler, "_begin"),
    "match": (PrefixCache, "match"),
    "reserve": (Scheduler, "_reserve"),
    "plan": (Scheduler, "_chunk"),
    "draw": (Request, "draw"),
    "pack": (device_runner, "pack"),
    "run": (DeviceRunner, "run"),
    "logits": (DeviceRunner, "_drawn"),
    "mask and sample": (device_runner, "draw"),
    "commit": (Scheduler, "_commit"),
    "publish": (PrefixCache, "publish"),
    "finish": (Request, "finish_reason"),
}


@dataclass
class Fault:
    """calls: how often the bad request was looked at; it strikes from call `at` on."""

    error: type[Exception]
    at: int
    calls: int = 0
    struck: int = 0

    def meet(self, what: tuple[Any, ...]) -> None:
        if mentions(what):
            self.calls += 1
            if self.calls >= self.at:
                self.struck += 1
                raise self.error("a secret of the machine")


def mentions(value: Any) -> bool:
    """Whether the bad request is in it."""
    if isinstance(value, Add | Request):
        return value.id == BAD
    if isinstance(value, Chunk):
        return value.request == BAD
    if isinstance(value, Draw):
        return value.seed == SEED
    if isinstance(value, str):
        return value == BAD
    if hasattr(value, "chunks"):
        value = value.chunks
    return isinstance(value, list | tuple) and any(map(mentions, value))


@contextmanager
def fault(point: str, error: type[Exception] = RuntimeError, at: int = 1) -> Iterator[Fault]:
    """Let this point fail within the block."""
    made = Fault(error, at)

    def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            made.meet((*arguments, *named.values()))
            return call(*arguments, **named)

        return wrapped

    owner, name = POINTS[point]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, wrap(getattr(owner, name)))
        yield made


@contextmanager
def poison(value: float, at: int = 1) -> Iterator[Fault]:
    """Let the bad request's logits be this number."""
    made = Fault(RuntimeError, at)
    drawn = DeviceRunner._drawn

    def wrapped(self: Any, chunks: Any, drawing: Any, logits_RV: Any, reports: Any) -> Any:
        rows = [row for row, i in enumerate(drawing) if mentions(chunks[i])]
        made.calls += len(rows)
        if rows and made.calls >= at:
            made.struck += 1
            logits_RV = logits_RV.clone()
            logits_RV[torch.tensor(rows)] = value
        return drawn(self, chunks, drawing, logits_RV, reports)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DeviceRunner, "_drawn", wrapped)
        yield made
