"""Reports as tables for a terminal. Knows numbers and rich. Decides nothing."""

from collections.abc import Iterator

from rich.table import Table

from pieria.config import format_size
from pieria.plan.outcome import Quantiles
from pieria.plan.serve_report import ServeReport
from pieria.plan.serving import Evaluated, Summary


def tables(report: ServeReport, explain: bool = False) -> Iterator[Table]:
    """The ways, and of the best what it gives, holds and rests on.

    explain: also every call of typical steps, and every number with its source.
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
        yield from steps(report)
        yield assumed(report)


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
        title=f"{report.model} on {report.cards} x {report.device}: {report.workload}",
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


def best(report: ServeReport) -> Table:
    one, detail = report.evaluated[0], report.detail
    s = one.summary
    table = Table("", "value", "at worst", "at best", title=f"{one.label} in {one.label.precision}")

    def row(name: str, text: str, bound: bool = False) -> None:
        low, high = "", ""
        if bound:
            low, high = (
                _numbers(side)[name] if side else "does not fit"
                for side in (detail.worst, detail.best)
            )
        table.add_row(name, text, low, high)

    for name, text in _numbers(s).items():
        row(name, text, bound=True)
    row("between tokens, p50, p99", _two(s.gaps))
    row("waiting for the first step, p50, p99", _two(s.queued))
    row("requests in a step, mean, most", f"{s.running:.1f}, {s.most_running}")
    row("most waiting", str(s.most_waiting))
    row("busy", f"{s.busy:.1%}")
    row("cache in use at most", f"{s.most_held:.1%}")
    row("prompt tokens found in the cache", f"{s.hit_share:.1%}")
    row("preemptions", str(s.preemptions))
    if s.handover is not None:
        row("handing a prompt over, p50, p99", _two(s.handover))
    row("refused", str(s.refused))
    if detail.within_slo is not None:
        unit = "users" if s.is_closed else "requests/s"
        row("largest load tried that keeps the SLO", f"{detail.within_slo:.3g} {unit}")
    return table


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
            "from",
            title=f"a step of {step.name}: {step.requests} requests, {step.tokens} tokens,"
            f" {step.context} of context: {found.seconds * 1e3:.3f} ms",
        )
        calls: dict[tuple[int, str, str], tuple[int, float]] = {}
        for line in found.lines:
            key = line.stage, line.work.op, line.source
            times, seconds = calls.get(key, (0, 0.0))
            calls[key] = times + 1, seconds + line.seconds
        extra = {(0, name, ""): (1, seconds) for name, seconds in found.extra}
        for (stage, op, source), (times, seconds) in {**calls, **extra}.items():
            share = seconds / found.seconds if found.seconds else 0.0
            table.add_row(
                str(stage), op, str(times), f"{seconds * 1e6:,.1f} us", f"{share:.1%}", source
            )
        yield table


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
