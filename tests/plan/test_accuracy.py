"""Errors and their summaries against numbers worked out by hand."""

import pytest

from pieria.plan.accuracy import Point, summary


def point(measured: float, predicted: float | None, reason: str = "") -> Point:
    return Point({"model": "m"}, "tpot", "ms", measured, predicted, reason)


def test_error_is_relative_to_what_was_measured() -> None:
    assert point(8.0, 10.0).error == 0.25
    assert point(10.0, 8.0).error == pytest.approx(-0.2)
    assert point(10.0, None).error is None


def test_summary_is_of_what_was_predicted() -> None:
    points = [point(10, 11), point(10, 7), point(10, 10.5), point(10, None, "unknown")]
    found = summary("all", points)
    assert (found.rows, found.predicted) == (4, 3)
    assert found.median == pytest.approx(0.10)
    assert found.worst == pytest.approx(0.30)
    assert found.signed == pytest.approx(0.05)


def test_summary_of_nothing() -> None:
    found = summary("none", [point(1, None)])
    assert (found.rows, found.predicted, found.median, found.worst) == (1, 0, 0.0, 0.0)


def test_json_has_an_object_a_row() -> None:
    assert point(8.0, 10.0).as_json() == {
        "model": "m",
        "metric": "tpot",
        "predicted": 10.0,
        "measured": 8.0,
        "unit": "ms",
        "error": 0.25,
        "saturated": False,
        "reason": "",
    }
    ranged = Point({}, "product", "TFLOP/s", 350.0, 336.0, low=315.0, high=385.0).as_json()
    assert (ranged["measured_low"], ranged["measured_high"]) == (315.0, 385.0)
