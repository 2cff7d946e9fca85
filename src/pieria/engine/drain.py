"""How fast a queue empties, and so how long it takes until there is room. Torch-free.

Knows counts and time. Does not know what waits.
"""

from collections import deque

from pieria.clock import Clock

REMEMBERED = 64
"""The latest departures, which tell the rate."""

LEAST_SECONDS, MOST_SECONDS = 1.0, 60.0


class Drain:
    """What leaves a queue while there is something in it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # (when, how much since the one before); the first counts as the beginning only.
        self._left: deque[tuple[float, float]] = deque(maxlen=REMEMBERED + 1)

    def begins(self) -> None:
        """The queue was empty, and is not any more: a rate from before would be too low."""
        self._left.clear()
        self._left.append((self._clock.now(), 0.0))

    def leaves(self, amount: float = 1.0) -> None:
        """So much is out of it."""
        self._left.append((self._clock.now(), amount))

    def seconds(self, amount: float) -> float:
        """Until so much has left, at the latest rate: from `LEAST_SECONDS` to `MOST_SECONDS`.

        The least if nothing has left so far.
        """
        if len(self._left) < 2:
            return LEAST_SECONDS
        left = sum(amount for _, amount in list(self._left)[1:])
        took = self._clock.now() - self._left[0][0]
        return min(MOST_SECONDS, max(LEAST_SECONDS, amount * took / left))
