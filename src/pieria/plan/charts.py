"""All charts of a report, in the order of a page."""

from collections.abc import Callable

from pieria.plan.charts_machine import capacity, inferred, memory, rooflines, step_parts
from pieria.plan.charts_serving import (
    distribution,
    loads,
    over_time,
    results_at_bounds,
    timeline,
    ways,
)
from pieria.plan.figures import Chart
from pieria.plan.serve_report import ServeReport

CHARTS: tuple[Callable[[ServeReport], Chart | None], ...] = (
    ways,
    loads,
    distribution,
    memory,
    capacity,
    rooflines,
    step_parts,
    timeline,
    over_time,
    results_at_bounds,
    inferred,
)


def charts(report: ServeReport) -> tuple[Chart, ...]:
    """Those that have something to show."""
    made = (make(report) for make in CHARTS)
    return tuple(chart for chart in made if chart is not None)
