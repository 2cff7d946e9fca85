"""Tokens a second of the latest seconds."""

import pytest

from pieria.engine.throughput import LOOK_BACK_SECONDS, Throughput
from tests.engine.test_text import Hand


def test_the_rate_is_of_the_latest_seconds() -> None:
    clock = Hand()
    made = Throughput(clock)  # type: ignore[arg-type]
    assert made.per_second == 0
    made.add(100)
    assert made.per_second == 0
    for step in range(1, 100):
        clock.seconds += 0.5
        made.add(100 + 7 * step)
    assert made.per_second == pytest.approx(14)
    for _ in range(int(LOOK_BACK_SECONDS)):  # an idle engine tells its figures every second
        clock.seconds += 1
        made.add(100 + 7 * 99)
    assert made.per_second == 0
    assert len(made._counts) <= LOOK_BACK_SECONDS + 1


def test_an_engine_that_says_nothing_makes_nothing() -> None:
    clock = Hand()
    made = Throughput(clock)  # type: ignore[arg-type]
    made.add(0)
    clock.seconds += 1
    made.add(50)
    assert made.per_second == 50
    clock.seconds += 4
    assert made.per_second == 10
    clock.seconds += 1000
    assert made.per_second == 0
