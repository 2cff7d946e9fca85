"""How many tokens a second were made lately. Torch-free. Knows a counter and time."""

from collections import deque

from pieria.clock import Clock

LOOK_BACK_SECONDS = 10.0


class Throughput:
    """A counter's growth a second over the latest `LOOK_BACK_SECONDS`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # (when, the counter then); the first is the latest that is as old as we look back.
        self._counts: deque[tuple[float, int]] = deque()

    def add(self, count: int) -> None:
        """The counter now."""
        self._counts.append((self._clock.now(), count))
        self._forget()

    @property
    def per_second(self) -> float:
        """0 until the counter was seen twice."""
        self._forget()
        if len(self._counts) < 2:
            return 0.0
        (began, before), (_, latest) = self._counts[0], self._counts[-1]
        took = self._clock.now() - began
        return (latest - before) / took if took > 0 else 0.0

    def _forget(self) -> None:
        oldest = self._clock.now() - LOOK_BACK_SECONDS
        while len(self._counts) > 1 and self._counts[1][0] <= oldest:
            self._counts.popleft()
