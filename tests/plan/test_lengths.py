"""Lengths: their means and spreads are those of the distributions' formulas."""

from itertools import islice
from math import exp
from random import Random
from statistics import fmean, median, pstdev

import pytest

from pieria.plan.lengths import FORMS, Lengths, lengths


def drawn(text: str, count: int = 20_000) -> list[int]:
    return list(islice(lengths(text, "input").draws(Random(0)), count))


def test_fixed() -> None:
    assert set(drawn("512", 10)) == {512}


def test_uniform() -> None:
    found = drawn("uniform:10:30")
    assert (min(found), max(found)) == (10, 30)
    assert fmean(found) == pytest.approx(20, rel=0.02)
    assert pstdev(found) == pytest.approx(((21**2 - 1) / 12) ** 0.5, rel=0.02)


def test_exponential() -> None:
    found = drawn("exponential:200")
    assert fmean(found) == pytest.approx(200, rel=0.03)
    assert pstdev(found) == pytest.approx(200, rel=0.05)
    assert min(found) == 1


def test_lognormal() -> None:
    found = drawn("lognormal:300:0.5")
    assert median(found) == pytest.approx(300, rel=0.03)
    assert fmean(found) == pytest.approx(300 * exp(0.5**2 / 2), rel=0.03)


def test_nothing_is_longer_than_allowed() -> None:
    assert max(islice(Lengths("exponential", 1000, most=50).draws(Random(0)), 100)) == 50


@pytest.mark.parametrize("text", ["512", "uniform:1:9", "exponential:20", "lognormal:30:0.5"])
def test_they_are_shown_as_they_are_written(text: str) -> None:
    assert str(lengths(text, "input")) == text


@pytest.mark.parametrize(
    "text", ["", "many", "1.5", "uniform:1", "uniform:a:b", "normal:3:1", "5:6"]
)
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(ValueError) as refused:
        lengths(text, "workload: input")
    assert str(refused.value) == f"workload: input={text!r} must be {FORMS}"


@pytest.mark.parametrize(
    "text", ["0", "uniform:9:1", "uniform:0:5", "exponential:0.5", "9999999999"]
)
def test_impossible_lengths_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must have lengths from 1 to"):
        lengths(text, "input")
