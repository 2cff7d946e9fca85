"""A card's own operators, each predicted from the others."""

from dataclasses import replace

import pytest

from pieria.plan import operators
from pieria.plan.accuracy import summary


def test_s5000_is_within_what_is_asked() -> None:
    points = operators.compare("MTT S5000")
    assert len(points) == 30
    found = summary("all", points)
    assert found.predicted == 30 and found.median <= 0.15
    for point in points:
        assert point.error is not None
        assert abs(point.error) <= 0.3 or point.reason, point.what


def test_a_row_is_not_in_its_own_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = operators.operators("mtt-s5000")
    before = {p.what["operator"]: p.predicted for p in operators.compare("mtt-s5000")}
    for i in (2, 8, 16):
        changed = [replace(r, rate=3 * r.rate) if j == i else r for j, r in enumerate(rows)]
        monkeypatch.setattr(operators, "operators", lambda device, changed=changed: changed)
        after = {p.what["operator"]: p.predicted for p in operators.compare("mtt-s5000")}
        assert after[rows[i].name] == before[rows[i].name]
        # What others are predicted from, it is in.
        if i == 2:
            assert after[rows[3].name] != before[rows[3].name]


def test_ranges_are_kept_where_sources_disagree() -> None:
    (point,) = [
        p
        for p in operators.compare("s5000")
        if p.what["operator"].endswith("fp16 4096^3") and p.low
    ]
    assert (point.low, point.measured, point.high) == (314.9, 352.0, 384.7)


def test_device_without_measurements_is_named() -> None:
    with pytest.raises(ValueError, match=r"'h20'; there are those of mtt-s5000"):
        operators.operators("h20")
