"""Where numbers come from: every kind of number, and the report's own assumptions."""

from dataclasses import replace

from pieria.plan.explain import derivations
from pieria.plan.serve_report import ServeReport
from pieria.plan.serving import Wire


def test_each_kind_of_number_is_explained(report: ServeReport) -> None:
    found = {one.number: one for one in derivations(report)}
    assert {"TTFT", "TPOT", "the time of a call", "weights", "cache", "at worst, at best"} <= set(
        found
    )
    assert all(one.how and one.rests for one in found.values())
    assert "bfloat16 peak" in found["at worst, at best"].rests
    for decision in report.detail.decisions:
        assert decision.value in found["cache"].rests
    assert str(report.slo) in found["requests/s within the SLO"].how


def test_handing_over_only_where_it_is(report: ServeReport) -> None:
    apart = replace(report, detail=replace(report.detail, wire=Wire(1e9, 1e-6, 1, 0)))
    numbers = [one.number for one in derivations(apart)]
    assert numbers[-1] == "handing a prompt over"
    assert len(numbers) == len(derivations(report)) + 1
