"""Quantiles against numpy's, and weighted ones against values written out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pieria.plan.outcome import PERCENTILES, Quantiles, Served
from tests.engine.profiles import STEADY

VALUES = st.lists(st.floats(0, 100), min_size=1, max_size=50)


@STEADY
@given(VALUES)
def test_percentiles_are_values_that_occur(values: list[float]) -> None:
    found = Quantiles.of(values)
    expected = np.quantile(values, PERCENTILES, method="inverted_cdf")
    assert (found.p50, found.p90, found.p95, found.p99) == pytest.approx(tuple(expected))
    assert (found.count, found.most) == (len(values), max(values))
    assert found.mean == pytest.approx(np.mean(values))


@STEADY
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5)), min_size=1, max_size=20))
def test_times_are_how_often_a_value_occurs(pairs: list[tuple[int, int]]) -> None:
    values, times = [v for v, _ in pairs], [t for _, t in pairs]
    written = [v for v, t in pairs for _ in range(t)]
    found, expected = Quantiles.of(values, times), Quantiles.of(written)
    assert found.mean == pytest.approx(expected.mean)
    assert (found.count, found.p50, found.p90, found.p95, found.p99, found.most) == (
        expected.count,
        expected.p50,
        expected.p90,
        expected.p95,
        expected.p99,
        expected.most,
    )


def test_of_nothing() -> None:
    assert Quantiles.of([]) == Quantiles(0, 0, 0, 0, 0, 0, 0)


def test_times_of_a_request() -> None:
    one = Served("a", 1.0, 1.5, 2.0, 5.0, 10, 4, 0, 1.5, 0)
    assert (one.ttft, one.tpot, one.total) == (1.0, 1.0, 4.0)
    assert Served("a", 1.0, 1.5, 2.0, 2.0, 10, 1, 0, 0.0, 0).tpot == 0.0
