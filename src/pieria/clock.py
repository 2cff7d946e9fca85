"""Where time comes from: the only file that reads the machine's clocks.

Knows nothing of requests or devices. Whoever needs the time takes a `Clock` as an argument, so that
the same scheduler and engine run on real time or on a predicted one.
"""

import time
from typing import Protocol


class Clock(Protocol):
    """A source of time in seconds."""

    def now(self) -> float:
        """Monotonic seconds; only differences mean anything."""

    def wall(self) -> float:
        """Seconds since the Unix epoch."""

    def sleep(self, seconds: float) -> None:
        """Return after `seconds` have passed on this clock."""


class RealTime:
    """The machine's own clocks."""

    def now(self) -> float:
        return time.perf_counter()

    def wall(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
