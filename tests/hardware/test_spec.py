"""Quantities hold together and read well; specs refuse what is not in their units."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pieria.hardware.spec import DeviceSpec, Fact, Link, Quantity

ONE = Quantity(1, "", "a test")
SPEC = DeviceSpec(
    "Some GPU",
    "Somebody",
    Quantity(2**30, "B", "a test"),
    frozenset({"float32"}),
    flops={"float8": Quantity(8e12, "FLOP/s", "a test"), "int8": Quantity(9e12, "OP/s", "a test")},
)
LINK = Link(
    "Wire",
    Quantity(1e9, "B/s", "a test"),
    Quantity(1e-6, "s", "a test"),
    Quantity(0.5, "", "a test", 0.4, 0.9),
    Fact(False, "a test"),
)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (33.1e9, "B/s", "33.1 GB/s"),
        (1.5e12, "FLOP/s", "1.5 TFLOP/s"),
        (2, "threads", "2 threads"),
        (24 * 2**30, "B", "24 GiB"),
        (0, "B", "0 B"),
        (2500, "W", "2.5 kW"),
        (6.258e-6, "s", "6.258 us"),
        (250e-9, "s", "250 ns"),
        (0, "s", "0 s"),
        (132, "", "132"),
    ],
)
def test_text(value: float, unit: str, text: str) -> None:
    assert str(Quantity(value, unit, "a test")) == text


def test_an_inferred_quantity_shows_its_bounds() -> None:
    inferred = Quantity(31e12, "FLOP/s", "a guess", low=26e12, high=33e12, inferred=True)
    assert str(inferred) == "31 (26 to 33) TFLOP/s"
    assert inferred.bounds == (26e12, 33e12)
    assert Quantity(31e12, "FLOP/s", "a data sheet").bounds == (31e12, 31e12)


def test_a_published_range_is_not_inferred() -> None:
    assert not Quantity(700, "W", "a data sheet", low=350, high=700).inferred


@pytest.mark.parametrize(
    ("source", "low", "high", "inferred"),
    [
        ("", None, None, False),
        (" ", None, None, False),
        ("x", 1.0, None, False),
        ("x", None, 3.0, False),
        ("x", 3, 4, False),
        ("x", 0, 1, False),
        ("x", None, None, True),
    ],
)
def test_what_does_not_hold_together_is_refused(
    source: str, low: float | None, high: float | None, inferred: bool
) -> None:
    with pytest.raises(ValueError, match="2 B"):
        Quantity(2, "B", source, low, high, inferred)


@given(st.floats(1e-3, 1e15), st.sampled_from(["B", "B/s", "FLOP/s"]))
def test_text_keeps_four_digits(value: float, unit: str) -> None:
    scales = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
    scales |= {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
    number, shown = str(Quantity(value, unit, "a test")).split()
    assert float(number) * scales[shown.removesuffix(unit)] == pytest.approx(value, rel=1e-3)


def test_products_and_sums_carry_bounds_sources_and_marks() -> None:
    wire = Quantity(400e9, "B/s", "a data sheet")
    share = Quantity(0.5, "", "a guess", 0.25, 0.75, inferred=True)
    found = wire.times(share, "B/s")
    assert found == Quantity(200e9, "B/s", "a data sheet; a guess", 100e9, 300e9, inferred=True)
    assert wire.times(0.5, "B/s", "half") == Quantity(200e9, "B/s", "half")
    assert wire.times(0.5, "B/s").source == "a data sheet"
    delay = Quantity(3e-6, "s", "a test", 1e-6, 4e-6)
    both = delay.plus(Quantity(1e-6, "s", "a guess", 1e-6, 2e-6, inferred=True))
    assert both == Quantity(4e-6, "s", "a test; a guess", 2e-6, 6e-6, inferred=True)
    assert delay.plus(delay).source == "a test"


def test_a_fact_has_a_source() -> None:
    assert Fact(True, "a test") and not Fact(False, "a test")
    assert [str(Fact(holds, "a test")) for holds in (True, False)] == ["yes", "no"]
    with pytest.raises(ValueError, match="no source"):
        Fact(True, "")


def test_peaks_by_torchs_names() -> None:
    for name in ("float8_e4m3fn", "float8_e5m2", "float8"):
        assert SPEC.peak(name) == SPEC.flops["float8"]
    assert SPEC.peak("int8") == SPEC.flops["int8"]
    assert SPEC.peak("bfloat16") is None
    assert SPEC.peak("float4_e2m1fn_x2") is None


def test_a_link_by_name() -> None:
    spec = replace(SPEC, links=(LINK,))
    assert spec.link("Wire") is LINK
    with pytest.raises(ValueError, match="Some GPU has no link 'NVLink'; there are: Wire"):
        spec.link("NVLink")


@pytest.mark.parametrize(
    "wrong",
    [
        {"memory": ONE},
        {"cache": ONE},
        {"bandwidth": ONE},
        {"launch": ONE},
        {"replay": ONE},
        {"gap": ONE},
        {"power": ONE},
        {"utilisation": replace(ONE, unit="s")},
        {"flops": {"bf16": ONE}},
    ],
)
def test_a_spec_in_other_units_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="Some GPU: "):
        replace(SPEC, **wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"bandwidth": ONE},
        {"latency": ONE},
        {"efficiency": Quantity(0.5, "B/s", "a test")},
        {"efficiency": Quantity(0.5, "", "a test", 0.4, 1.1)},
    ],
)
def test_a_link_in_other_units_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="Wire: "):
        replace(LINK, **wrong)
