"""Times calls as they are in a recorded step: with their operands where a model leaves them.

Knows a clock, recordings and caches. Does not know which calls are worth timing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from pieria import ops
from pieria.clock import Clock
from pieria.hardware import cpu, memory
from pieria.hardware.spec import DeviceSpec
from pieria.kernels.cpu.read import read
from pieria.plan.record import Reread

TURNS_BYTES = 64 << 20
"""Of operands that take turns: more than inner caches hold, less than the last one."""
CALLS = 256
"""Most of one sample."""
LEAST_CALLS = 4
"""Of one sample, where there are so many operands: the first call of a replay finds less ready."""
SAMPLE_FLOPS = 5e8
SAMPLES = 5
SHORT_SAMPLES = 15
WARM = 512
"""Inputs and outputs of a product that all threads take part in."""
LEAST = 1e-8
"""Seconds: no call takes less, whatever the clock says of two short times."""
STREAMS = 4

FLUSHES = 2
"""How many times the caches' size is read to empty them."""
MOST_FLUSHED = 1 << 30
UNKNOWN_CACHE = 128 << 20
"""The last cache of a machine that does not say how large it is."""
REREAD = (1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8, 1.0)
"""Of what empties the last cache: how much is read again and again."""

Call = Callable[[int], Any]
"""The op with the operands whose turn it is."""


@dataclass(frozen=True)
class Took:
    """Seconds of a call whose operands come from memory, and from the last cache."""

    memory: float
    cache: float


class Recorder:
    """Calls as recordings replay them, or from Python where they cannot be recorded."""

    def __init__(self, clock: Clock, dtype: str, limits: DeviceSpec) -> None:
        """limits: of the processor, whose last cache is to be emptied."""
        self.clock = clock
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.arena = ops.service("cpu", "Arena")()
        self.record = ops.service("cpu", "record")
        cache = int(limits.cache.value) if limits.cache else UNKNOWN_CACHE
        # Written to: zeros that nobody has written are all one page.
        self._other = memory.zeros(min(FLUSHES * cache, MOST_FLUSHED)).fill_(1)
        levels = cpu.processor().caches
        last = max((c.level for c in levels), default=0)
        self._first = self.random(1, WARM), ops.linear.pack(self.random(WARM, WARM))
        self._nothing = self._recorded([], lambda i: None)
        self._inner = sum(c.size * c.instances for c in levels if c.level < last)

    def random(self, *shape: int) -> Tensor:
        return torch.empty(shape).uniform_(-1, 1).to(self.dtype)

    def turns(self, each: int) -> int:
        """How many operands of so many bytes take turns."""
        return max(1, min(SAMPLES * CALLS, TURNS_BYTES // each))

    def took(self, call: Call, turns: int, flops: float) -> Took:
        """call: with any of `turns` operands, each time of so many operations."""
        wanted = max(turns // SAMPLES, min(turns, LEAST_CALLS))
        count = max(1, min(wanted, CALLS, round(SAMPLE_FLOPS / flops)))
        distinct = max(1, turns // count)
        with torch.inference_mode():
            runs = [
                self._recorded([s * count + i for i in range(count)], call)
                for s in range(min(SAMPLES, distinct))
            ]
            far, near = [], []
            for sample in range(SAMPLES):
                if sample % len(runs) == 0:
                    self._flush(len(self._other))
                far.append(self._alone(runs[sample % len(runs)]) / count)
            for sample in range(SAMPLES):
                near.append(self._alone(runs[sample % len(runs)]) / count)
        return Took(max(median(far), LEAST), max(median(near), LEAST))

    def short(self, call: Callable[[], Any]) -> float:
        """Seconds of a call whose operands were made a moment ago, by steps that used the inner
        caches for something else since.
        """
        with torch.inference_mode():
            run = self._recorded([0], lambda i: call())
            found = []
            for _ in range(SHORT_SAMPLES):
                self._flush(FLUSHES * self._inner)
                found.append(self._alone(run))
        return max(median(found), LEAST)

    def reread(self) -> Reread:
        """How fast as much as a model has is read again and again."""
        sizes = [int(share * len(self._other)) for share in REREAD]
        rates = []
        for size in sizes:
            self._flush(size)
            seconds = [self._timed(partial(self._flush, size)) for _ in range(SAMPLES)]
            rates.append(size / median(seconds))
        return Reread(tuple(map(float, sizes)), tuple(rates))

    def _recorded(self, turns: list[int], call: Call) -> Callable[[], None]:
        """What makes the call with each of these operands; they are made once now.

        Before them a small product, which wakes the threads as a step's earlier calls do.
        """

        def each() -> None:
            ops.linear(*self._first)
            for i in turns:
                call(i)

        with self.record(self.arena, lambda: 0) as recording:
            each()
        replay: Callable[[], None] = recording.replay
        return replay if recording.obstacle is None else each

    def _flush(self, size: int) -> None:
        read(self._other[:size], STREAMS)

    def _alone(self, run: Callable[[], None]) -> float:
        """Less what a replay takes that has no calls but the first: a step has that once, a sample
        may have one call.
        """
        # The first one brings back the interpreter's part.
        self._timed(self._nothing)
        around = self._timed(self._nothing)
        return self._timed(run) - around

    def _timed(self, run: Callable[[], None]) -> float:
        begun = self.clock.now()
        run()
        return self.clock.now() - begun
