"""Quantities hold together and read well."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pieria.hardware.spec import Quantity


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (33.1e9, "B/s", "33.1 GB/s"),
        (1.5e12, "FLOP/s", "1.5 TFLOP/s"),
        (2, "threads", "2 threads"),
        (24 * 2**30, "B", "24 GiB"),
        (0, "B", "0 B"),
        (2500, "W", "2.5 kW"),
    ],
)
def test_text(value: float, unit: str, text: str) -> None:
    assert str(Quantity(value, unit, "a test")) == text


def test_an_inferred_quantity_shows_its_bounds() -> None:
    inferred = Quantity(31e12, "FLOP/s", "a guess", low=26e12, high=33e12)
    assert inferred.inferred
    assert str(inferred) == "31 (26 to 33) TFLOP/s"
    assert not Quantity(31e12, "FLOP/s", "a data sheet").inferred


@pytest.mark.parametrize(
    ("source", "low", "high"), [("", None, None), ("x", 1.0, None), ("x", None, 3.0), ("x", 3, 4)]
)
def test_what_does_not_hold_together_is_refused(
    source: str, low: float | None, high: float | None
) -> None:
    with pytest.raises(ValueError, match="2 B"):
        Quantity(2, "B", source, low, high)


@given(st.floats(1e-3, 1e15), st.sampled_from(["B", "B/s", "FLOP/s"]))
def test_text_keeps_four_digits(value: float, unit: str) -> None:
    scales = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
    scales |= {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
    number, shown = str(Quantity(value, unit, "a test")).split()
    assert float(number) * scales[shown.removesuffix(unit)] == pytest.approx(value, rel=1e-3)
