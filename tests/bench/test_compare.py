"""The comparisons as commands, and one load on two clocks."""

import json
from pathlib import Path

import pytest

from pieria.bench import compare
from pieria.bench.drive import Load, drive
from pieria.cli import main
from pieria.engine.plan import ChunkResult
from pieria.engine.scheduler import SchedulerConfig
from pieria.plan.accuracy import Point
from pieria.plan.published import COLUMNS
from pieria.plan.replica import PredictedRunner, Replica, VirtualTime

ROWS = (
    "inference,Qwen/Qwen3-32B,h100_sxm,8,TP8 sglang,bf16,conc 4,1024,16,tpot,8.0,ms,x",
    "inference,Qwen/Qwen3-32B,h100_sxm,8,TP8 sglang,bf16,conc 4,1024,16,ttft,100.0,ms,x",
    "inference,unheard-of-7b,h100_sxm,8,TP8,bf16,conc 4,1024,16,ttft,100.0,ms,x",
    "collective,,h100_sxm,8,,,,,,busbw,400,GB/s,x",
)


def test_published_rows_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, out = tmp_path / "rows.csv", tmp_path / "out.json"
    table.write_text("\n".join([",".join(COLUMNS), *ROWS]) + "\n")
    assert main(["bench", "compare", "--published", str(table), "--json", str(out)]) == 0
    tpot, ttft, unknown = json.loads(out.read_text())
    # 64 GB of weights over eight cards take 2.4 ms to read at 3.35 TB/s.
    assert 3.0 < tpot["predicted"] < 12.0 and tpot["unit"] == "ms"
    assert tpot["error"] == pytest.approx(tpot["predicted"] / 8.0 - 1)
    assert 20 < ttft["predicted"] < 400
    assert unknown["predicted"] is None and "unheard-of-7b" in unknown["reason"]
    assert "predicted and measured" in capsys.readouterr().out


def test_a_broken_line_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "rows.csv"
    table.write_text("\n".join([",".join(COLUMNS), ROWS[0].replace("8.0", "eight")]) + "\n")
    assert main(["bench", "compare", "--published", str(table)]) != 0
    assert "line 2: value='eight'" in capsys.readouterr().err


def test_exactly_one_comparison_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    for options in ([], ["--local", "--device", "s5000"]):
        with pytest.raises(SystemExit):
            main(["bench", "compare", *options])
    assert "--published" in capsys.readouterr().err


def test_reasons_and_ranges_are_shown() -> None:
    points = [
        Point({"operator": "a"}, "product", "TFLOP/s", 350.0, 500.0, "why", 300.0, 400.0),
        Point({"operator": "b"}, "product", "TFLOP/s", 350.0, None, "unknown"),
    ]
    made, short = compare.tables(points, [], ["operator"])
    cells = [list(column.cells) for column in made.columns]
    assert cells[2] == ["500", ""] and cells[4] == ["+42.9%", ""]
    assert cells[3][0] == "350 TFLOP/s (300 to 400)" and cells[5] == ["why", "unknown"]
    assert short.row_count == 0


def test_a_load_on_a_predicted_clock_takes_what_its_steps_take() -> None:
    """Two users, twice: a step of 1 s with their prompts, then three of 0.5 s."""
    load = Load("", 2, 2, 5, 5, 4)
    scheduler = SchedulerConfig(enable_prefix_caching=False)
    replica = Replica(scheduler, 64, 16, 256)
    runner = PredictedRunner(
        lambda plan: 1.0 if plan.tokens > len(plan.chunks) else 0.5,
        lambda chunk: ChunkResult(chunk.request, None if chunk.draw is None else 0),
        VirtualTime(),
    )
    clock = runner.clock
    found = drive(load, replica.start(), runner, clock, 100, 0)
    assert found.ttft == pytest.approx(1.0)
    assert found.itl == pytest.approx(0.5)
    assert found.throughput == pytest.approx(16 / 5.0)
