"""Reports as tables for a terminal. Knows numbers and rich. Decides nothing."""

from collections.abc import Iterator
from dataclasses import dataclass

from rich.table import Table

from pieria.config import format_size
from pieria.plan.calls import calls
from pieria.plan.errors import ErrorRow
from pieria.plan.explain import derivations
from pieria.plan.outcome import Quantiles
from pieria.plan.serve_report import ServeReport
from pieria.plan.serving import Evaluated, Summary


def tables(report: ServeReport, explain: bool = False) -> Iterator[Table]:
    """The ways, and of the best what it gives, holds and rests on.

    explain: also how each number came about, every call of typical steps, and every assumption with
    its source.
    """
    yield ways(report)
    yield best(report)
    yield memory(report.evaluated[0])
    yield curve(report)
    if report.rejected:
        yield rejected(report)
    if report.stand_ins:
        yield stand_ins(report)
    if explain:
        yield derived(report)
        yield from steps(report)
        yield assumed(report)
    yield errors(report)


MOST_ROWS = 16
"""Ways in a table, besides those that none beats; JSON has all."""


def ways(report: ServeReport) -> Table:
    hidden = [i for i in range(MOST_ROWS, len(report.evaluated)) if i not in report.pareto]
    table = Table(
        "layout",
        "weights",
        "step",
        "TTFT p50, p99",
        "TPOT p50, p99",
        "tokens/s",
        "a card",
        "in SLO",
        "",
        title=f"{report.model} on {report.cards} x {report.device.name}: {report.workload}",
        caption=f"SLO: {report.slo}; as {report.practice}, {report.routing} routing;"
        " *: no other way is better in everything"
        + (f"; {len(hidden)} more are worse" if hidden else ""),
    )
    for place, one in enumerate(report.evaluated):
        if place in hidden:
            continue
        s, label = one.summary, one.label
        table.add_row(
            str(label),
            label.precision,
            f"{label.max_num_seqs} x {label.max_num_batched_tokens}",
            _two(s.ttft),
            _two(s.tpot),
            f"{s.answer_tokens_per_second:,.0f}",
            f"{s.card_tokens_per_second:,.0f}",
            f"{s.good_share:.1%}",
            "*" if place in report.pareto and len(report.evaluated) > 1 else "",
        )
    return table


@dataclass(frozen=True)
class NumberRow:
    """A number of the best way. low, high: at the machine's worst and best, for those that vary;
    usual: at neither, of the same requests, where these are fewer.
    """

    name: str
    value: str
    usual: str = ""
    low: str = ""
    high: str = ""


def best(report: ServeReport) -> Table:
    label = report.evaluated[0].label
    table = Table("", *best_headings(report), title=f"{label} in {label.precision}")
    for row in best_rows(report):
        usual = (row.usual,) if _is_bounded_shorter(report) else ()
        table.add_row(row.name, row.value, *usual, row.low, row.high)
    return table


def best_headings(report: ServeReport) -> list[str]:
    """Of `best_rows`, after their names. Bounds are to be compared with `usual`."""
    bounds = ["at worst", "at best"]
    if not _is_bounded_shorter(report):
        return ["value", *bounds]
    usual = f"of {report.detail.usual.asked} requests"
    return ["value", usual, *(f"{side}, of as many" for side in bounds)]


def _is_bounded_shorter(report: ServeReport) -> bool:
    return report.detail.usual.asked != report.evaluated[0].summary.asked


def best_rows(report: ServeReport) -> list[NumberRow]:
    """All that is shown of it."""
    detail, s = report.detail, report.evaluated[0].summary
    usual, *sides = (
        _numbers(one) if one else None for one in (detail.usual, detail.worst, detail.best)
    )
    assert usual is not None
    rows = [
        NumberRow(
            name, text, usual[name], *(side[name] if side else "does not fit" for side in sides)
        )
        for name, text in _numbers(s).items()
    ]
    more = {
        "between tokens, p50, p99": _two(s.gaps),
        "waiting for the first step, p50, p99": _two(s.queued),
        "requests in a step, mean, most": f"{s.running:.1f}, {s.most_running}",
        "most waiting": str(s.most_waiting),
        "busy": f"{s.busy:.1%}",
        "cache in use at most": f"{s.most_held:.1%}",
        "prompt tokens found in the cache": f"{s.hit_share:.1%}",
        "preemptions": str(s.preemptions),
        "refused": str(s.refused),
    }
    if s.handover is not None:
        more["handing a prompt over, p50, p99"] = _two(s.handover)
    if detail.within_slo is not None:
        unit = "users" if s.is_closed else "requests/s"
        more["largest load tried that keeps the SLO"] = f"{detail.within_slo:.3g} {unit}"
    return rows + [NumberRow(name, text) for name, text in more.items()]


def memory(one: Evaluated) -> Table:
    table = Table(
        "stage",
        "weights",
        "activations",
        "cache",
        "free",
        "not the engine's",
        title="memory of a card",
    )
    for use in one.memory:
        sizes = (use.weights, use.activations + use.buffers, use.cache, use.free, use.reserved)
        table.add_row(str(use.stage), *map(format_size, sizes))
    held = ", ".join(f"{c.context}: {c.at_once} ({c.in_memory})" for c in one.capacities)
    table.caption = f"requests at once of so many tokens (as memory alone allows): {held}"
    return table


def curve(report: ServeReport) -> Table:
    users = report.evaluated[0].summary.is_closed
    table = Table(
        "users" if users else "requests/s",
        "tokens/s",
        "tokens/s of a user",
        "TTFT p50, p99",
        "TPOT p50, p99",
        "in SLO",
        title="at other loads",
    )
    for point in report.detail.curve:
        table.add_row(
            f"{point.offered:.3g}",
            f"{point.answer_tokens_per_second:,.0f}",
            f"{point.user_tokens_per_second:.1f}",
            _two(point.ttft),
            _two(point.tpot),
            f"{point.good_share:.1%}",
        )
    return table


def rejected(report: ServeReport) -> Table:
    table = Table("left out", "because", title="not simulated")
    for one in report.rejected[:MOST_ROWS]:
        table.add_row(one.name, one.reason)
    if len(report.rejected) > MOST_ROWS:
        table.caption = f"and {len(report.rejected) - MOST_ROWS} more"
    return table


def stand_ins(report: ServeReport) -> Table:
    table = Table("not measured on this device", "asked for", title="stand-ins")
    for text, times in report.stand_ins.items():
        table.add_row(text, str(times))
    return table


def steps(report: ServeReport) -> Iterator[Table]:
    for step in report.detail.steps:
        found = step.explanation
        table = Table(
            "stage",
            "call",
            "times",
            "seconds",
            "share",
            "flops/byte",
            "reached",
            "from",
            title=f"a step of {step.name}: {step.requests} requests, {step.tokens} tokens,"
            f" {step.context} of context: {found.seconds * 1e3:.3f} ms",
            caption="seconds: of all; reached: share of what the device's peak and bandwidth allow",
        )
        for one in calls(found, report.device):
            share = one.all_seconds / found.seconds if found.seconds else 0.0
            table.add_row(
                str(one.stage),
                f"{one.name}: {one.shape}",
                str(one.times),
                f"{one.all_seconds * 1e6:,.1f} us",
                f"{share:.1%}",
                f"{one.intensity:.3g}" if one.flops else "",
                "" if one.reached is None else f"{one.reached:.0%}",
                one.source,
            )
        for name, seconds in found.extra:
            share = seconds / found.seconds if found.seconds else 0.0
            table.add_row("", name, "", f"{seconds * 1e6:,.1f} us", f"{share:.1%}", "", "", "")
        yield table


def derived(report: ServeReport) -> Table:
    table = Table("number", "is", "rests on", title="where numbers come from")
    for one in derivations(report):
        table.add_row(one.number, one.how, one.rests)
    return table


def errors(report: ServeReport) -> Table:
    table = Table(
        *ERROR_HEADINGS,
        title="this planner against what was measured and published",
        caption="of serving on machines that exist; nothing is fitted to these measurements",
    )
    for row in report.errors:
        table.add_row(*error_cells(row))
    return table


ERROR_HEADINGS = ("number", "on", "rows", "predicted", "median error", "worst", "bias")


def error_cells(row: ErrorRow) -> tuple[str, ...]:
    """As text, in the order of the headings."""
    metric = f"{row.metric}, with a queue" if row.saturated else row.metric
    found = (row.median, row.worst)
    known = ["-" if x is None else f"{x:.1%}" for x in found]
    bias = "-" if row.bias is None else f"{row.bias:+.1%}"
    return metric, row.machine, str(row.rows), str(row.predicted), *known, bias


def assumed(report: ServeReport) -> Table:
    table = Table("number", "value", "low", "high", "", "source", title="what this rests on")
    for one in report.assumptions:
        mark = "inferred" if one.inferred else ""
        table.add_row(one.what, one.value, one.low, one.high, mark, one.source)
    return table


def _numbers(s: Summary) -> dict[str, str]:
    """Those that are shown with their bounds."""
    return {
        "TTFT p50, p99": _two(s.ttft),
        "TPOT p50, p99": _two(s.tpot),
        "answer tokens/s": f"{s.answer_tokens_per_second:,.0f}",
        "answer tokens/s a card": f"{s.card_tokens_per_second:,.1f}",
        "prompt tokens/s": f"{s.prompt_tokens_per_second:,.0f}",
        "requests/s": f"{s.requests_per_second:.3g}",
        "requests/s within the SLO": f"{s.goodput:.3g} ({s.good_share:.1%})",
    }


def _two(found: Quantiles) -> str:
    return f"{_time(found.p50)}, {_time(found.p99)}"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms"
