"""A report as files: JSON, a page, a trace. Knows names of files, and what makes their contents."""

import json
import sys

from pieria.plan.chrome_trace import chrome_trace
from pieria.plan.page import page
from pieria.plan.serve_options import STANDARD_OUTPUT, OutputOptions
from pieria.plan.serve_report import ServeReport, as_json


def write(report: ServeReport, wanted: OutputOptions) -> None:
    """What is asked for. OSError if it cannot be written."""
    if wanted.json is not None:
        text = json.dumps(as_json(report), indent=2, allow_nan=False)
        if wanted.json == STANDARD_OUTPUT:
            sys.stdout.write(f"{text}\n")
        else:
            wanted.json.write_text(f"{text}\n", encoding="utf-8")
    if wanted.html is not None:
        wanted.html.write_text(page(report), encoding="utf-8")
    if wanted.trace is not None:
        text = json.dumps(chrome_trace(report), allow_nan=False)
        wanted.trace.write_text(text, encoding="utf-8")
