"""Calls of a step, alike ones together: nothing is lost, and none beats its device."""

import pytest

from pieria.plan.calls import calls
from pieria.plan.serve_report import ServeReport
from pieria.plan.work import Exchange


def test_they_are_all_calls_of_a_step(report: ServeReport) -> None:
    for step in report.detail.steps:
        lines = step.explanation.lines
        found = calls(step.explanation, report.device)
        assert sum(c.times for c in found) == len(lines) > len(found)
        assert sum(c.all_seconds for c in found) == pytest.approx(sum(x.seconds for x in lines))
        assert sum(c.times * c.flops for c in found) == pytest.approx(sum(x.flops for x in lines))


def test_a_product_is_what_its_shape_says(report: ServeReport) -> None:
    """The head of 32000 rows over two ranks; 128 single tokens are as many rows."""
    step = report.detail.steps[0]
    (head,) = (
        c
        for c in calls(step.explanation, report.device)
        if c.shape == f"{step.requests} rows, 1024 to 16000"
    )
    assert head.flops == 2 * step.requests * 1024 * 16000
    assert head.bytes == 2 * (1024 * 16000 + step.requests * (1024 + 16000))
    assert report.device.bandwidth is not None
    assert head.least == pytest.approx(head.bytes / report.device.bandwidth.value)
    assert head.reached == pytest.approx(head.least / head.seconds)
    assert head.peak == "bfloat16" and "products in bfloat16" in head.source


def test_none_is_faster_than_its_device(report: ServeReport) -> None:
    for step in report.detail.steps:
        exchanges = {x.work.op for x in step.explanation.lines if isinstance(x.work, Exchange)}
        assert "all_reduce" in exchanges
        for call in calls(step.explanation, report.device):
            assert (call.reached is None) == (call.name in exchanges)
            assert call.reached is None or 0 < call.reached <= 1.05, call
