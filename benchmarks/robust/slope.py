"""A straight line through measurements, and how sure its slope is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

SIDED_95 = 1.645
"""Of a normal distribution; an hour has enough points for it to stand for Student's."""


@dataclass(frozen=True)
class Slope:
    """value: per unit of x, by least squares. error: its standard error."""

    value: float
    error: float

    @property
    def upper(self) -> float:
        """The upper bound of its 95 % interval."""
        return self.value + SIDED_95 * self.error


def slope(x: Sequence[float], y: Sequence[float]) -> Slope:
    """ValueError for fewer than three points, or all at one x."""
    count = len(x)
    if count < 3 or len(set(x)) == 1:
        raise ValueError(f"{count} points do not make a slope with an error; take more time")
    middle_x, middle_y = sum(x) / count, sum(y) / count
    spread = sum((a - middle_x) ** 2 for a in x)
    value = sum((a - middle_x) * (b - middle_y) for a, b in zip(x, y, strict=True)) / spread
    rest = sum((b - middle_y - value * (a - middle_x)) ** 2 for a, b in zip(x, y, strict=True))
    return Slope(value, math.sqrt(rest / (count - 2) / spread))
