"""A trace has what chrome://tracing and Perfetto ask of one, and what the simulation did."""

import json
from collections import defaultdict
from typing import Any

import pytest

from pieria.plan.chrome_trace import chrome_trace
from pieria.plan.serve_report import ServeReport

KEYS = {
    "X": {"name", "cat", "ph", "ts", "dur", "pid", "tid", "args"},
    "C": {"name", "ph", "ts", "pid", "tid", "args"},
    "M": {"name", "ph", "pid", "tid", "args"},
    "b": {"name", "cat", "ph", "id", "ts", "pid", "tid", "args"},
    "e": {"name", "cat", "ph", "id", "ts", "pid", "tid"},
}


@pytest.fixture(scope="module")
def events(report: ServeReport) -> list[dict[str, Any]]:
    found = json.loads(json.dumps(chrome_trace(report), allow_nan=False))
    assert found["displayTimeUnit"] == "ms"
    assert found["otherData"]["what"] == "predicted, not measured"
    made: list[dict[str, Any]] = found["traceEvents"]
    return made


def test_each_event_is_of_its_kind(events: list[dict[str, Any]]) -> None:
    assert {event["ph"] for event in events} == set(KEYS)
    for event in events:
        assert set(event) == KEYS[event["ph"]], event
        assert event.get("ts", 0) >= 0 and event.get("dur", 0) >= 0


def test_what_is_on_one_line_does_not_overlap(events: list[dict[str, Any]]) -> None:
    lines: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            lines[event["pid"], event["tid"]].append(event)
    for line in lines.values():
        for one, other in zip(line, line[1:], strict=False):
            assert other["ts"] >= one["ts"] + one["dur"] - 1e-3


def test_steps_and_calls_are_the_reports(report: ServeReport, events: list[dict[str, Any]]) -> None:
    pool = report.detail.simulation.pools[0]
    steps = [e for e in events if e.get("cat") == "step"]
    assert [e["args"]["tokens"] for e in steps] == [s.tokens for s in pool.timeline]
    assert steps[3]["ts"] == pytest.approx(1e6 * pool.timeline[3].begin)
    assert {e["name"] for e in steps} == {"answers", "prompts"}
    took = sum(e["dur"] for e in events if e.get("cat") == "call")
    lines = [line for step in report.detail.steps for line in step.explanation.lines]
    assert took == pytest.approx(1e6 * sum(line.seconds for line in lines))


def test_every_request_that_begins_ends(report: ServeReport, events: list[dict[str, Any]]) -> None:
    times: dict[tuple[int, str], list[float]] = defaultdict(list)
    for event in events:
        if event["ph"] in "be":
            times[event["id"], event["name"]].append(event["ts"])
    found = report.detail.simulation
    last = found.pools[0].timeline[-1]
    until = last.begin + last.seconds
    assert len(times) == 4 * sum(one.first <= until for one in found.served) > 0
    assert all(len(pair) == 2 and pair[0] <= pair[1] for pair in times.values())
