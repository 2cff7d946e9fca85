"""What is fitted to steps' time beside their kernels."""

import pytest

from pieria.bench.record_host import Point, fitted


def test_a_step_and_its_requests_are_told_apart() -> None:
    points = [Point((1.0, users), 1.0, 3e-3 + users * 2e-4) for users in (1, 4, 16)]
    assert fitted(points) == pytest.approx([3e-3, 2e-4])


def test_nothing_takes_less_than_nothing() -> None:
    points = [Point((1.0, users), 1.0, 3e-3 - users * 2e-4) for users in (1, 4, 16)]
    step, each = fitted(points)
    assert step > 0
    assert each == 0
    assert fitted([Point((1.0,), 1.0, -1e-3)]) == [0.0]


def test_a_long_step_counts_by_its_relative_error() -> None:
    """A millisecond more is much of a short step, and little of a long one."""
    short, long = Point((1.0,), 1e-3, 1e-4), Point((1.0,), 1.0, 1e-3)
    assert fitted([short, long])[0] == pytest.approx(1e-4, rel=1e-4)
