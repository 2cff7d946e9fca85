"""The table of errors: medians by hand, and the one that comes with the package."""

from pieria.plan.compare import Compared
from pieria.plan.errors import ErrorRow, machine_of, stored, summed
from pieria.plan.published import Row


def row(metric: str, hardware: str, value: float) -> Row:
    return Row(
        *("inference", "some", hardware, 8, "TP8", "bf16", "conc 1", 1, 1),
        *(metric, value, "ms", "a page"),
    )


def test_sizes_medians_and_bias() -> None:
    found = summed(
        [
            Compared(row("tpot", "h100_sxm", 100.0), 110.0),
            Compared(row("tpot", "H100-80GB 8x node", 100.0), 80.0),
            Compared(row("tpot", "h100_sxm", 10.0), 10.5),
            Compared(row("tpot", "h100_sxm", 10.0), None, "no such model"),
            Compared(row("tpot", "h100_sxm", 10.0), 20.0, saturated=True),
            Compared(row("samples_per_s", "h200", 10.0), None, "not predicted"),
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
