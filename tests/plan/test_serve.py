"""`pieria plan serve` from options to a report, and what it says of wrong ones."""

import io
import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from pieria import cli
from pieria.plan.serve import Watchers, serve
from pieria.plan.serve_options import EngineOptions, LayoutOptions, PlanOptions
from pieria.plan.serve_report import ServeReport, as_json
from pieria.plan.show import best_headings, best_rows, tables

LOAD = "rate=30,input=200,output=20,requests=60"


def plan(model: str, device: str = "mtt-s5000x2", **options: Any) -> ServeReport:
    parts: list[Any] = []
    for cls in (PlanOptions, LayoutOptions, EngineOptions):
        names = {f.name for f in fields(cls)}
        given = {name: value for name, value in options.items() if name in names}
        if cls is PlanOptions:
            given = {"model": model, "device": device, "workload": LOAD, **given}
        parts.append(cls(**given))
    return serve(*parts, Watchers())


def test_a_report_has_what_pages_need(report: ServeReport) -> None:
    detail = report.detail
    assert (report.cards, report.device.name[:9]) == (2, "MTT S5000")
    assert report.model.endswith("config.json") and report.errors
    assert len(detail.simulation.served) == report.evaluated[0].summary.asked == 60
    assert len(detail.curve) == 7 and detail.within_slo is not None
    assert len(detail.steps) == 2 and detail.simulation.pools[0].timeline
    assert detail.worst is not None and detail.best is not None
    usual = report.evaluated[0].summary
    assert detail.best.tpot.p50 < usual.tpot.p50 < detail.worst.tpot.p50
    assert report.evaluated[0].capacities and report.evaluated[0].memory
    assert all(a.source for a in report.assumptions)
    labels = [a.what for a in report.assumptions]
    assert "bfloat16 peak" in labels and "memory that the engine may use" in labels
    assert any(a.inferred and a.low and a.high for a in report.assumptions)


def test_bounds_are_of_the_same_requests(
    report: ServeReport, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A longer run is not what its bounds are compared with: its ramp is a smaller part of it."""
    assert report.detail.usual == report.evaluated[0].summary
    assert best_headings(report) == ["value", "at worst", "at best"]
    monkeypatch.setattr("pieria.plan.search.ANSWER_TOKENS", 1)
    load = "rate=200,input=200,output=20,requests=150"
    found = plan(model, workload=load)
    detail, whole = found.detail, found.evaluated[0].summary
    worst, usual, best = detail.worst, detail.usual, detail.best
    assert worst is not None and best is not None
    assert (worst.asked, usual.asked, best.asked, whole.asked) == (100, 100, 100, 150)
    rates = [one.answer_tokens_per_second for one in (worst, usual, best)]
    assert rates == sorted(rates) and rates[2] < whole.answer_tokens_per_second
    headings = best_headings(found)
    assert headings[1] == "of 100 requests" and len(headings) == 4
    row = next(row for row in best_rows(found) if row.name == "answer tokens/s")
    assert row.usual == f"{usual.answer_tokens_per_second:,.0f}" != row.value


def test_json_has_all_but_single_requests(report: ServeReport) -> None:
    found = json.loads(json.dumps(as_json(report)))
    assert set(found) == {f.name for f in fields(ServeReport)}
    assert found["detail"]["simulation"]["served"] == []
    assert found["evaluated"][0]["summary"]["ttft"]["p50"] == report.evaluated[0].summary.ttft.p50
    line = found["detail"]["steps"][0]["explanation"]["lines"][0]
    assert line["seconds"] > 0 and line["work"]["op"]


def test_results_are_frozen(report: ServeReport) -> None:
    def check(value: Any) -> None:
        if is_dataclass(value) and not isinstance(value, type):
            assert value.__dataclass_params__.frozen, type(value)  # type: ignore[attr-defined]
            for field in fields(value):
                check(getattr(value, field.name))
        elif isinstance(value, tuple):
            for one in value[:3]:
                check(one)
        else:
            assert not isinstance(value, list), value

    check(report)


def test_tables_say_it(report: ServeReport) -> None:
    from rich.console import Console

    console = Console(width=200, record=True, file=io.StringIO())
    for table in tables(report, explain=True):
        console.print(table)
    text = console.export_text()
    for part in (
        "TP2",
        "TTFT p50, p99",
        "memory of a card",
        "requests at once",
        "at other loads",
        "a step of answers",
        "where numbers come from",
        "products in bfloat16 as measured on h100",
        "this planner against what was measured and published",
        "what this rests on",
        "SLO: ttft<=1000ms, tpot<=50ms for 90%",
    ):
        assert part in text


def test_layouts_and_cards(model: str) -> None:
    found = plan(model, "mtt-s5000", cards=4, tp=2, quantize=("fp8",))
    assert str(found.evaluated[0].label.arrangement) == "TP2 DP2"
    apart = plan(model, "mtt-s5000x4", prefill_cards=2, tp=2)
    assert str(apart.evaluated[0].label) == "TP2 for prompts, TP2 for answers"
    assert apart.detail.wire is not None
    assert apart.evaluated[0].summary.handover is not None


def test_a_search_reports_all_ways(model: str) -> None:
    found = plan(model, search=True, quantize=("bfloat16", "fp8"), max_num_seqs=(16, 64))
    assert len(found.evaluated) + len(found.rejected) == 3 * 2 * 2
    assert found.pareto
    assert found.workload == "200 in, 20 out, 30/s, 60 requests"


def test_fewer_bytes_for_keys_hold_more_requests(model: str) -> None:
    """A number of a head of 64 takes one byte and its share of a scale of 4."""
    usual, small_kv = plan(model), plan(model, kv_cache_dtype="int8")
    held = [r.evaluated[0].capacities[-1].in_memory for r in (usual, small_kv)]
    assert held[1] == pytest.approx(128 / 68 * held[0], rel=0.01)
    note = "attention over keys and values in int8: as in float8_e4m3fn"
    assert note in small_kv.stand_ins and note not in usual.stand_ins


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"device": "mtt-s9000"}, "no device or cluster is called 'mtt-s9000'; did you mean mtt-s"),
        ({"device": "mtt-s5000x0"}, "'mtt-s5000x0' asks for no cards"),
        ({"cards": 3}, "--cards 3 and --device mtt-s5000x2 name different numbers of cards"),
        ({"tp": 3}, "tp=3 does not make 2 cards; these do: DP2, TP2, PP2"),
        ({"device": "mtt-s5000x3"}, "do not divide over tp=3.*; what works: DP3"),
        ({"quantize": ("fp7",)}, "quantize='fp7'; there are: float32"),
        ({"quantize": ("fp8", "bfloat16")}, "several values of --quantize"),
        ({"search": True, "tp": 2}, "--tp says what a search is to find out"),
        ({"prefill_cards": 2}, "--prefill-cards 2 must leave some of 2 cards"),
        ({"prefill_cards": 1, "dp": 1}, "--dp follows from --prefill-cards"),
        ({"workload": "rate=often"}, "workload: rate='often' must be a number"),
        ({"slo": "speed=1s"}, "slo: there is no 'speed'"),
        ({"max_model_len": 9999}, "max_model_len=9999 is more than the 4096 tokens"),
        ({"device": "mtt-s5000", "cards": -1}, "--cards -1 must be at least 1"),
    ],
)
def test_wrong_options_are_named(model: str, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        plan(model, **options)


def test_an_unknown_model_is_named_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match="no preset is called 'llama-9'; there are: "):
        plan("llama-9")
    with pytest.raises(ValueError, match="no model is given; there are: "):
        plan("")


def test_a_model_that_does_not_fit_says_what_would() -> None:
    with pytest.raises(ValueError, match=r"does not fit.*what works: .*on 16 cards") as refused:
        plan("deepseek-v3", "mtt-s5000x8", quantize=("fp8_block",), workload="rate=1")
    assert "TP8 in int4" in str(refused.value)


def test_a_broken_trace_line_ends_the_command(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("num_prefill_tokens,num_decode_tokens\n10,5\n10,many\n")
    load = f"trace={trace},rate=3"
    status = cli.main(["plan", "serve", model, "--device", "mtt-s5000", "--workload", load])
    assert status == 2
    error = capsys.readouterr().err
    assert f"{trace}, line 3: num_decode_tokens='many' must be a whole number" in error


def test_the_command_prints_json(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["plan", "serve", model, "--device", "mtt-s5000x2", "--workload", LOAD]
    assert cli.main([*arguments, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["cards"] == 2
    assert cli.main(["plan", "serve", model, "--device", "mtt-s5000", "--workload", "help"]) == 0
    assert "prefix=1000 of the input" in " ".join(capsys.readouterr().out.split())
    assert cli.main(["plan", "serve", model]) == 2
    assert "no --device is given" in capsys.readouterr().err
