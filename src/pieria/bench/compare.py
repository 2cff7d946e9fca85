"""`pieria bench compare`: predictions beside what was measured, as tables and as JSON.

Knows the three comparisons and how they are summed up. Does not predict or measure.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.table import Table

from pieria.plan.accuracy import Point, Summary, summary
from pieria.plan.published import rows

MEASURED_CARDS = ("h100", "h200")


def published(path: Path) -> tuple[list[Point], list[Summary]]:
    """Inference rows of a CSV file. ValueError, naming the line, for a file of another form."""
    from pieria.plan import compare

    points = compare.compare(rows(path))
    first = [point for point in points if _is_serving(point)]
    summaries = [
        summary(f"serving on H100 and H200, unsaturated: {metric}", _of(first, metric))
        for metric in ("ttft", "tpot")
    ]
    others = [point for point in points if not _is_serving(point)]
    for metric in dict.fromkeys(point.metric for point in others):
        summaries.append(summary(f"other rows: {metric}", _of(others, metric)))
    return points, [*summaries, summary("all inference rows", points)]


def _is_serving(point: Point) -> bool:
    hardware = str(point.what["hardware"]).lower()
    on_measured = hardware.startswith(MEASURED_CARDS)
    return (
        on_measured
        and point.metric in ("ttft", "tpot")
        and not point.saturated
        and (point.predicted is not None)
    )


def _of(points: Sequence[Point], metric: str) -> list[Point]:
    return [point for point in points if point.metric == metric]


def operators(device: str) -> tuple[list[Point], list[Summary]]:
    """A device's measured operators, each predicted from the others. ValueError if it has none."""
    from pieria.plan import operators as measured

    points = measured.compare(device)
    kinds = dict.fromkeys(point.metric for point in points)
    each = [summary(kind, _of(points, kind)) for kind in kinds]
    return points, [*each, summary("all operators", points)]


def local(path: Path, report: Callable[[str, int, int], None]) -> tuple[list[Point], list[Summary]]:
    """The engine here beside its prediction from the record at `path`."""
    from pieria.bench import local as here
    from pieria.clock import RealTime
    from pieria.plan.record import load

    points = here.compare(load(path), RealTime(), report)
    each = [summary(metric, _of(points, metric)) for metric in here.METRICS]
    return points, [*each, summary("all", points)]


def save(path: Path, points: Sequence[Point]) -> None:
    """One object a row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([point.as_json() for point in points], indent=1) + "\n")


def tables(
    points: Sequence[Point], summaries: Sequence[Summary], columns: Sequence[str]
) -> list[Table]:
    """columns: of what tells rows apart, those to show."""
    made = Table(*columns, "metric", title="predicted and measured")
    for title in ("predicted", "measured", "error"):
        made.add_column(title, justify="right")
    made.add_column("why")
    for point in points:
        error = point.error
        made.add_row(
            *(_text(point.what[column]) for column in columns),
            point.metric,
            "" if point.predicted is None else f"{point.predicted:,.4g}",
            _measured(point),
            "" if error is None else f"{error:+.1%}",
            point.reason,
        )
    short = Table("", title="absolute errors", title_justify="left")
    for title in ("rows", "predicted", "median", "worst", "median with its sign"):
        short.add_column(title, justify="right")
    for one in summaries:
        numbers = (f"{one.median:.1%}", f"{one.worst:.1%}", f"{one.signed:+.1%}")
        shown = numbers if one.predicted else ("", "", "")
        short.add_row(one.name, str(one.rows), str(one.predicted), *shown)
    return [made, short]


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _measured(point: Point) -> str:
    text = f"{point.measured:,.4g} {point.unit}"
    if point.low is None or point.high is None:
        return text
    return f"{text} ({point.low:,.4g} to {point.high:,.4g})"
