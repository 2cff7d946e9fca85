"""Charts show the report's numbers, where and in the unit that their axes say."""

from dataclasses import replace
from typing import Any

import pytest

from pieria.plan.charts import charts
from pieria.plan.charts_machine import GIB
from pieria.plan.figures import Chart
from pieria.plan.serve_report import ServeReport
from pieria.plan.serving import Capacity


def by_key(report: ServeReport) -> dict[str, Chart]:
    return {chart.key: chart for chart in charts(report)}


def trace(chart: Chart, name: str) -> Any:
    (found,) = (trace for trace in chart.figure.data if trace.name == name)
    return found


def test_all_are_there_and_say_what_they_are(searched: ServeReport) -> None:
    found = charts(searched)
    assert [chart.key for chart in found] == [
        *("ways", "loads", "distribution", "memory", "capacity", "rooflines", "parts"),
        *("timeline", "over-time", "bounds", "inferred"),
    ]
    for chart in found:
        assert chart.title and chart.says and chart.figure.data
        assert chart.figure.layout.xaxis.title.text


def test_one_way_has_no_chart_of_ways(report: ServeReport) -> None:
    assert "ways" not in by_key(report)


def test_ways_are_divided_into_those_that_none_beats_and_the_rest(searched: ServeReport) -> None:
    chart = by_key(searched)["ways"]
    front = trace(chart, "none is better in everything")
    rest = trace(chart, "another way is better in everything")
    assert len(front.x) == len(searched.pareto)
    assert len(front.x) + len(rest.x) == len(searched.evaluated)
    wanted = sorted(1e3 * searched.evaluated[i].summary.tpot.p50 for i in searched.pareto)
    assert list(front.x) == pytest.approx(wanted)
    best = trace(chart, "the best, and its bounds")
    summary, worst = searched.evaluated[0].summary, searched.detail.worst
    assert worst is not None
    slower = 1e3 * (worst.tpot.p50 - summary.tpot.p50)
    assert best.error_x.array[0] == pytest.approx(slower)


def test_loads_are_milliseconds_with_the_slo(report: ServeReport) -> None:
    chart = by_key(report)["loads"]
    shown = trace(chart, "TPOT p99")
    curve = sorted(report.detail.curve, key=lambda s: s.offered)
    assert list(shown.y) == pytest.approx([1e3 * s.tpot.p99 for s in curve])
    assert list(shown.x) == pytest.approx([s.answer_tokens_per_second for s in curve])
    assert set(trace(chart, "TTFT of the SLO").y) == {1000.0}
    assert set(trace(chart, "TPOT of the SLO").y) == {50.0}


def test_memory_adds_up_to_the_card(report: ServeReport) -> None:
    chart = by_key(report)["memory"]
    assert list(chart.figure.data[0].y) == ["rank 0", "rank 1"]
    sums = [sum(part.x[rank] for part in chart.figure.data) for rank in (0, 1)]
    assert sums == pytest.approx([report.device.memory.value / GIB] * 2, rel=1e-6)
    assert trace(chart, "weights").x[0] == report.evaluated[0].memory[0].weights / GIB


def test_capacity_against_context(report: ServeReport) -> None:
    shown = trace(by_key(report)["capacity"], "as memory alone allows")
    capacities = report.evaluated[0].capacities
    assert list(shown.x) == [c.context for c in capacities]
    assert list(shown.y) == [c.in_memory for c in capacities]


def test_contexts_that_are_close_are_not_all_named(report: ServeReport) -> None:
    (one,) = report.evaluated
    every = tuple(Capacity(c, 9, 9) for c in (*(1 << i for i in range(10, 18)), 163840))
    many = replace(report, evaluated=(replace(one, capacities=every),))
    axis = by_key(many)["capacity"].figure.layout.xaxis
    assert list(axis.ticktext) == ["1K", "4K", "16K", "64K"]
    assert list(axis.tickvals) == [1024, 4096, 16384, 65536]


def test_calls_are_under_the_roof(report: ServeReport) -> None:
    chart = by_key(report)["rooflines"]
    (line,) = (t for t in chart.figure.data if t.name.startswith("bfloat16: "))
    assert line.y[-1] == 500 and line.x[1] == pytest.approx(500 / 1.6, rel=0.01)
    assert report.device.bandwidth is not None
    for step in ("answers", "a prompt"):
        (points,) = (t for t in chart.figure.data if t.name.startswith(f"{step}: "))
        assert len(points.x) > 3
        for x, y in zip(points.x, points.y, strict=True):
            assert 0 < y <= 1.05 * min(500, x * report.device.bandwidth.value / 1e12)


def test_a_steps_parts_are_all_of_it(report: ServeReport) -> None:
    chart = by_key(report)["parts"]
    for place, step in enumerate(report.detail.steps):
        whole = sum(part.x[place] for part in chart.figure.data)
        assert whole == pytest.approx(1e3 * step.explanation.seconds)


def test_the_timeline_has_the_steps_in_order(report: ServeReport) -> None:
    chart = by_key(report)["timeline"]
    pool = report.detail.simulation.pools[0]
    begins = sorted(at for part in chart.figure.data for at in part.base)
    assert begins == pytest.approx([step.begin for step in pool.timeline[: len(begins)]])
    assert set(chart.figure.data[0].y) == {"replica 0"}


def test_bounds_are_shares_of_the_value(report: ServeReport) -> None:
    found = by_key(report)
    (peaks,) = (t for t in found["inferred"].figure.data if t.name == "inferred")
    at = list(peaks.y).index("bfloat16 peak")
    assert list(peaks.x[at : at + 3]) == [pytest.approx(0.77), pytest.approx(2.048), None]
    (band,) = found["bounds"].figure.data
    at = list(band.y).index("TPOT p50")
    worst = report.detail.worst
    assert worst is not None
    share = worst.tpot.p50 / report.evaluated[0].summary.tpot.p50
    assert band.x[at + 1] == pytest.approx(share)


def test_what_is_not_there_is_left_out(report: ServeReport) -> None:
    detail = report.detail
    empty = replace(
        detail,
        worst=None,
        best=None,
        simulation=replace(detail.simulation, served=(), pools=()),
    )
    keys = set(by_key(replace(report, detail=empty, assumptions=())))
    assert keys == {"loads", "memory", "capacity", "rooflines", "parts"}
