"""How the long runs judge: what they would find wrong, they find."""

import json

import numpy as np
import pytest

from benchmarks.robust.fairness import Waits
from benchmarks.robust.slope import slope
from benchmarks.robust.soak import Phase, Sample, judge
from benchmarks.robust.streams import Verdict


def test_a_slope_and_its_error() -> None:
    x, y = [0.0, 1.0, 2.0, 4.0, 5.0], [1.0, 2.5, 2.9, 6.2, 6.0]
    (wanted, _), covariance = np.polyfit(x, y, 1, cov=True)
    found = slope(x, y)
    assert found.value == pytest.approx(wanted)
    assert found.error == pytest.approx(covariance[0, 0] ** 0.5)
    assert found.upper > found.value


def test_two_points_make_no_slope() -> None:
    with pytest.raises(ValueError, match="2 points"):
        slope([1.0, 2.0], [1.0, 2.0])


@pytest.mark.parametrize(
    ("found", "counts"),
    [
        ([1, 2, 3], (0, 0, 0)),
        ([1, 2], (1, 0, 0)),
        ("error event", (1, 0, 0)),
        ([1, 2, 3, 3], (0, 1, 0)),
        ([1, 9, 3], (0, 0, 1)),
    ],
)
def test_answers_are_compared(found: list[int] | str, counts: tuple[int, int, int]) -> None:
    verdict = Verdict()
    verdict.take(7, found, [1, 2, 3])
    assert (verdict.lost, verdict.duplicated, verdict.changed) == counts
    assert len(verdict.wrong) == sum(counts)


def phase(memory: float = 0.0, descriptors: int = 0, slow: float = 0.0) -> Phase:
    """An hour in which these grow by so much."""
    samples = [
        Sample(
            60.0 * minute,
            int(2**28 + memory * minute / 60 + 1000 * (minute % 3)),
            20 + descriptors * (minute > 40) + (minute % 7 == 4),
            9,
            0.1 + slow * minute / 60 + 0.001 * (minute % 2),
        )
        for minute in range(1, 61)
    ]
    return Phase(samples)


def test_what_grows_is_found() -> None:
    assert judge(phase(), phase()) == []
    assert "memory grows" in judge(phase(), phase(memory=9 * 2**20))[0]
    assert "descriptors: 20, later 22" in judge(phase(), phase(descriptors=2))[0]
    assert "the slowest drift" in judge(phase(), phase(slow=0.5))[0]


def test_what_each_pause_showed_can_be_written() -> None:
    one = phase()
    one.requests["good"] += 7
    shown = json.loads(json.dumps(one.shown))
    assert shown["requests"] == {"good": 7}
    assert [Sample(**sample) for sample in shown["samples"]] == one.samples


def test_a_step_and_twice_the_time_alone_may_be_waited() -> None:
    assert not Waits(alone=0.1, beside=0.25, step=0.05).wrong
    assert Waits(alone=0.1, beside=0.26, step=0.05).wrong
