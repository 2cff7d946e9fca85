"""The arithmetic of a run's numbers, against numbers worked out by hand."""

import math

import numpy as np
import pytest

from pieria.bench.metrics import Outcome, errors, summarize

FAST = Outcome(0.0, 100, 3, 0.5, (0.1, 0.3), "abc")
SLOW = Outcome(0.1, 50, 2, 2.0, (0.2,), "ab")
SINGLE = Outcome(0.2, 10, 1, 1.0, (), "a")
LOST = Outcome(0.3, 10, 1, 9.0, (9.0,), "", "400: no")


def test_times_of_one_request() -> None:
    assert FAST.e2el == pytest.approx(0.9)
    assert FAST.tpot == pytest.approx(0.2)
    assert SINGLE.e2el == 1.0
    assert SINGLE.tpot == 0.0


def test_numbers_of_a_run() -> None:
    found = summarize([FAST, SLOW, SINGLE, LOST], 4.0, (50, 99))
    assert (found["completed"], found["failed"]) == (3, 1)
    assert (found["total_input_tokens"], found["total_output_tokens"]) == (160, 6)
    assert found["request_throughput"] == 0.75
    assert found["output_throughput"] == 1.5
    assert found["total_token_throughput"] == 41.5
    assert found["median_ttft_ms"] == found["p50_ttft_ms"] == 1000
    assert found["mean_ttft_ms"] == pytest.approx(3500 / 3)
    assert found["mean_tpot_ms"] == pytest.approx(200)  # of those that have one
    assert found["mean_itl_ms"] == pytest.approx(200)
    assert found["std_itl_ms"] == pytest.approx(float(np.std([100, 300, 200])))
    assert found["p99_e2el_ms"] == pytest.approx(float(np.percentile([900, 2200, 1000], 99)))
    assert "request_goodput" not in found


@pytest.mark.parametrize(
    ("limits", "good"),
    [
        ({"ttft": 1.0}, 2),
        ({"ttft": 0.6}, 1),
        ({"ttft": 5.0, "tpot": 0.15}, 1),
        ({"e2el": 1.0}, 2),
        ({"itl": 0.29}, 2),
        ({"itl": 0.31}, 3),
        ({"ttft": 0.1}, 0),
    ],
)
def test_goodput_is_what_keeps_every_limit(limits: dict[str, float], good: int) -> None:
    found = summarize([FAST, SLOW, SINGLE, LOST], 4.0, limits=limits)
    assert found["request_goodput"] == good / 4


def test_nothing_completed() -> None:
    found = summarize([LOST], 1.0)
    assert (found["completed"], found["failed"]) == (0, 1)
    assert math.isnan(found["median_ttft_ms"])


def test_errors_are_counted() -> None:
    assert errors([FAST, LOST, LOST, Outcome(0, 0, 0, 0, (), "", "x")]) == [
        ("400: no", 2),
        ("x", 1),
    ]
