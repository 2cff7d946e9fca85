"""A report as one HTML page that needs no network: charts, tables, and where numbers come from.

Knows reports, charts and the page's template. Decides nothing.

Charts are plotly's figures as JSON, one element each, which plotly's script, that is part of the
page, draws. The page forbids its own scripts to load anything.
"""

import json
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from pieria.plan.calls import calls
from pieria.plan.charts import charts
from pieria.plan.explain import derivations
from pieria.plan.serve_report import ServeReport
from pieria.plan.show import ERROR_HEADINGS, best_headings, best_rows, error_cells


def page(report: ServeReport) -> str:
    """The whole of it, as text."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    text = (files("pieria.plan") / "page.html").read_text(encoding="utf-8")
    first = report.evaluated[0]
    return environment.from_string(text).render(
        report=report,
        first=first,
        headings=best_headings(report),
        rows=best_rows(report),
        charts=[(chart, _json(chart.figure.to_plotly_json())) for chart in charts(report)],
        steps=[(step, calls(step.explanation, report.device)) for step in report.detail.steps],
        derivations=derivations(report),
        error_headings=ERROR_HEADINGS,
        errors=[error_cells(row) for row in report.errors],
        plotly=Markup(get_plotlyjs().replace("</script", r"<\/script")),
    )


def _json(figure: dict[str, Any]) -> Markup:
    """As an element of a page may hold it: no text in it ends the element."""
    text = json.dumps(figure, allow_nan=False, default=list)
    return Markup(text.replace("<", "\\u003c"))
