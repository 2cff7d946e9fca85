"""How fast a queue empties: over the latest departures, while it was not empty, within bounds."""

from pieria.engine.drain import LEAST_SECONDS, MOST_SECONDS, REMEMBERED, Drain
from tests.engine.test_text import Hand


def drain() -> tuple[Drain, Hand]:
    clock = Hand()
    made = Drain(clock)  # type: ignore[arg-type]
    return made, clock


def test_nothing_is_known_at_first() -> None:
    made, clock = drain()
    assert made.seconds(10) == LEAST_SECONDS
    made.begins()
    clock.seconds += 100
    assert made.seconds(10) == LEAST_SECONDS


def test_the_rate_is_of_the_latest() -> None:
    made, clock = drain()
    made.begins()
    for _ in range(200):
        clock.seconds += 30
        made.leaves()
    for _ in range(REMEMBERED):
        clock.seconds += 0.5
        made.leaves(2)
    assert made.seconds(20) == 5


def test_time_without_a_queue_does_not_count() -> None:
    made, clock = drain()
    made.begins()
    clock.seconds += 1
    made.leaves()
    clock.seconds += 10_000
    made.begins()
    clock.seconds += 2
    made.leaves()
    assert made.seconds(3) == 6


def test_bounds() -> None:
    made, clock = drain()
    made.begins()
    clock.seconds += 1
    made.leaves(1000)
    assert made.seconds(1) == LEAST_SECONDS
    assert made.seconds(1e9) == MOST_SECONDS
