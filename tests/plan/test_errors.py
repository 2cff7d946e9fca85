"""The table of errors: medians by hand, and the one that comes with the package."""

from pieria.plan.accuracy import Point
from pieria.plan.errors import ErrorRow, machine_of, stored, summed


def point(
    metric: str,
    hardware: str,
    measured: float,
    predicted: float | None,
    reason: str = "",
    saturated: bool = False,
) -> Point:
    what = {"hardware": hardware}
    return Point(what, metric, "ms", measured, predicted, reason, saturated=saturated)


def test_sizes_medians_and_bias() -> None:
    found = summed(
        [
            point("tpot", "h100_sxm", 100.0, 110.0),
            point("tpot", "H100-80GB 8x node", 100.0, 80.0),
            point("tpot", "h100_sxm", 10.0, 10.5),
            point("tpot", "h100_sxm", 10.0, None, "no such model"),
            point("tpot", "h100_sxm", 10.0, 20.0, saturated=True),
            point("samples_per_s", "h200", 10.0, None, "not predicted"),
        ]
    )
    assert found == (
        ErrorRow("TPOT", "H100", False, 4, 3, 0.1, 0.2, 0.05),
        ErrorRow("TPOT", "H100", True, 1, 1, 1.0, 1.0, 1.0),
        ErrorRow("others", "", False, 1, 0),
    )


def test_machines() -> None:
    assert [machine_of(x) for x in ("h100_sxm", "H100-80GB 8x node", "MTT S5000")] == [
        "H100",
        "H100",
        "MTT",
    ]


def test_the_stored_table() -> None:
    found = stored()
    assert {("TPOT", "H100"), ("TTFT", "H200")} <= {(r.metric, r.machine) for r in found}
    assert sum(r.predicted for r in found) >= 200
    for one in found:
        assert 0 <= one.predicted <= one.rows
        assert (one.median is None) == (one.predicted == 0)
        if one.median is not None and one.worst is not None and one.bias is not None:
            assert abs(one.bias) <= one.worst and one.median <= one.worst
