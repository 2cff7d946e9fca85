"""Shorthands in which spec files quote numbers."""

from collections.abc import Mapping

from pieria.hardware.spec import Fact, Quantity

MIB = 2.0**20
GIB = 2.0**30


def said(
    value: float, unit: str, source: str, low: float | None = None, high: float | None = None
) -> Quantity:
    """A published or measured number, with bounds where the publications differ."""
    if low is None and high is None:
        return Quantity(value, unit, source)
    return Quantity(
        value, unit, source, value if low is None else low, value if high is None else high
    )


def assumed(value: float, low: float, high: float, unit: str, why: str) -> Quantity:
    """A number of ours."""
    return Quantity(value, unit, why, low, high, inferred=True)


def draw(limit: float, source: str) -> Quantity:
    """Watts at full load, up to a published limit.

    The lower bound is what a DGX H100 draws typically of its own limit, 6.5 of 10.2 kW.
    """
    low = limit * 6.5 / 10.2
    return Quantity(
        limit,
        "W",
        f"{source}, at most; low: 6.5 kW of 10.2 typical (supercluster.blog)",
        low,
        limit,
    )


def tera(source: str, **peaks: float) -> Mapping[str, Quantity]:
    """Peaks of dense products in 10^12 operations/s, all from one source."""
    return {
        dtype: Quantity(peak * 1e12, "OP/s" if dtype == "int8" else "FLOP/s", source)
        for dtype, peak in peaks.items()
    }


def yes(source: str, inferred: bool = False) -> Fact:
    return Fact(True, source, inferred)


def no(source: str, inferred: bool = False) -> Fact:
    return Fact(False, source, inferred)
