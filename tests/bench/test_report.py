"""What a run's table, file and plot show."""

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pieria.bench import report
from pieria.bench.metrics import Outcome, summarize
from pieria.bench.options import ReportOptions

OUTCOMES = [Outcome(0.0, 100, 3, 0.5, (0.1, 0.3), "abc"), Outcome(0.1, 9, 1, 1.0, (), "a", "no")]


def runs() -> list[dict[str, Any]]:
    return [
        {"max_concurrency": count, **summarize(OUTCOMES, 2.0, (99,), {"ttft": 1.0})}
        for count in (None, 8)
    ]


def rows(options: ReportOptions, made: list[dict[str, Any]]) -> list[list[str]]:
    console = Console(file=io.StringIO(), width=120)
    console.print(report.table(made, options))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return [
        [cell.strip() for cell in line.replace("┃", "│").split("│")[1:-1]]
        for line in text.splitlines()
        if line[0] in "│┃"
    ]


def test_the_table() -> None:
    found = rows(ReportOptions(percentile_metrics="ttft,itl"), runs())
    assert found[0] == ["", "all at once", "8 at a time"]
    assert ["requests failed", "1", "1"] in found
    assert ["requests/s within limits", "0.50", "0.50"] in found
    assert ["time to first token, median, ms", "500.00", "500.00"] in found
    assert ["inter-token latency, p99, ms", "298.00", "298.00"] in found
    assert not [row for row in found if "per output token" in row[0]]


def test_the_file(tmp_path: Path) -> None:
    file = tmp_path / "new" / "r.json"
    made = [{**runs()[1], "median_ttft_ms": math.nan}]
    report.save(file, {"request_rate": math.inf, "where": tmp_path}, made)
    found = json.loads(file.read_text())
    assert found["request_rate"] == "inf"
    assert found["where"] == str(tmp_path)
    assert found["runs"][0]["median_ttft_ms"] is None
    assert found["runs"][0]["output_throughput"] == 1.5


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_the_plot(kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"p.{kind}"
    report.plot(file, runs(), "a title")
    assert file.read_bytes().startswith(b"\x89PNG" if kind == "png" else b"<?xml")
