"""Predicted beside measured: one number each, and how far apart many of them are.

Knows numbers and what they are called. Does not know how either was come by.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Point:
    """One number. what: what tells it from others, by column.

    reason: why there is no prediction, or why it is so far off. low, high: where sources of what
    was measured disagree. saturated: requests had to wait, so that little changes much.
    """

    what: dict[str, Any]
    metric: str
    unit: str
    measured: float
    predicted: float | None
    reason: str = ""
    low: float | None = None
    high: float | None = None
    saturated: bool = False

    @property
    def error(self) -> float | None:
        """(predicted - measured) / measured."""
        return None if self.predicted is None else (self.predicted - self.measured) / self.measured

    def as_json(self) -> dict[str, Any]:
        numbers = {"predicted": self.predicted, "measured": self.measured, "unit": self.unit}
        made = {**self.what, "metric": self.metric, **numbers, "error": self.error}
        if self.low is not None:
            made |= {"measured_low": self.low, "measured_high": self.high}
        return {**made, "saturated": self.saturated, "reason": self.reason}


@dataclass(frozen=True)
class Summary:
    """Of those that were predicted: absolute errors' median and worst, and the signed median."""

    name: str
    rows: int
    predicted: int
    median: float
    worst: float
    signed: float


def summary(name: str, points: Sequence[Point]) -> Summary:
    """All zero where nothing was predicted."""
    errors = [error for point in points if (error := point.error) is not None]
    absolute = [abs(error) for error in errors] or [0.0]
    signed = median(errors) if errors else 0.0
    return Summary(name, len(points), len(errors), median(absolute), max(absolute), signed)
