"""A plan as a trace that chrome://tracing and Perfetto open: steps, requests, and calls of a step.

Knows the trace format of "Trace Event Format" (Google, 2016): complete events (X), counters (C),
nestable asynchronous ones (b, e) and names (M), times in microseconds. Does not know how it came.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from pieria.plan.calls import shape
from pieria.plan.outcome import PoolUse, Served
from pieria.plan.serve_report import ServeReport
from pieria.plan.serving import ExplainedStep

Event = dict[str, Any]

REQUESTS = 500
"""Most of them in a trace."""


def chrome_trace(report: ServeReport) -> dict[str, Any]:
    """The first steps of every pool, the requests of that time, and typical steps call by call."""
    found = report.detail.simulation
    events: list[Event] = []
    process = 0
    for pool in found.pools:
        process += 1
        events += _pool(process, pool)
    until = max((_end(pool) for pool in found.pools), default=0.0)
    process += 1
    events += _requests(process, (s for s in found.served if s.first <= until))
    for step in report.detail.steps:
        process += 1
        events += _step(process, step)
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {
            "what": "predicted, not measured",
            "model": report.model,
            "cluster": report.cluster,
            "workload": report.workload,
        },
    }


def _pool(process: int, pool: PoolUse) -> Iterator[Event]:
    yield _name("process_name", process, 0, f"steps: {pool.name}")
    for replica in range(pool.replicas):
        yield _name("thread_name", process, replica, f"replica {replica}")
    for step in pool.timeline:
        what = "answers" if step.tokens == step.requests else "prompts"
        numbers = {"requests": step.requests, "tokens": step.tokens, "context": step.context}
        yield _whole(process, step.replica, what, "step", step.begin, step.seconds, numbers)
    until = _end(pool)
    for sample in (s for s in pool.samples if s.at <= until):
        for name, numbers in (
            ("requests", {"running": sample.running, "waiting": sample.waiting}),
            ("pages", {"held": sample.pages_held, "cached": sample.pages_cached}),
        ):
            at = sample.at * 1e6
            yield {"name": name, "ph": "C", "ts": at, "pid": process, "tid": 0, "args": numbers}


def _requests(process: int, served: Iterable[Served]) -> Iterator[Event]:
    yield _name("process_name", process, 0, "requests")
    for number, one in zip(range(REQUESTS), served, strict=False):
        numbers = {"prompt": one.prompt, "answer": one.answer, "found in the cache": one.cached}
        for name, begin, end in (
            (f"request {one.id}", one.arrived, one.last),
            ("waits", one.arrived, one.started),
            ("prompt", one.started, one.first),
            ("answer", one.first, one.last),
        ):
            common = {"name": name, "cat": "request", "id": number, "pid": process, "tid": 0}
            yield {**common, "ph": "b", "ts": begin * 1e6, "args": numbers}
            yield {**common, "ph": "e", "ts": end * 1e6}


def _step(process: int, step: ExplainedStep) -> Iterator[Event]:
    """Its calls one after the other; stages too, as a step passes through them."""
    title = f"a step of {step.name}: {step.requests} requests, {step.tokens} tokens"
    yield _name("process_name", process, 0, title)
    at = 0.0
    stages = sorted({line.stage for line in step.explanation.lines})
    for stage in stages:
        yield _name("thread_name", process, stage, f"stage {stage}")
    for line in step.explanation.lines:
        numbers = {
            "shape": shape(line.work),
            "flops": line.flops,
            "bytes": line.bytes,
            "from": line.source,
        }
        yield _whole(process, line.stage, line.work.op, "call", at, line.seconds, numbers)
        at += line.seconds
    yield _name("thread_name", process, len(stages), "besides")
    for name, seconds in step.explanation.extra:
        if seconds > 0:
            yield _whole(process, len(stages), name, "besides", at, seconds, {})
            at += seconds


def _end(pool: PoolUse) -> float:
    return max((step.begin + step.seconds for step in pool.timeline), default=0.0)


def _whole(
    process: int,
    thread: int,
    name: str,
    category: str,
    begin: float,
    seconds: float,
    numbers: dict[str, Any],
) -> Event:
    return {
        "name": name,
        "cat": category,
        "ph": "X",
        "ts": begin * 1e6,
        "dur": seconds * 1e6,
        "pid": process,
        "tid": thread,
        "args": numbers,
    }


def _name(kind: str, process: int, thread: int, name: str) -> Event:
    return {"name": kind, "ph": "M", "pid": process, "tid": thread, "args": {"name": name}}
