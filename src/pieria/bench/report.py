"""Results of load runs for people and files. Knows the numbers' names, not how they came about."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from pieria.bench.options import ReportOptions

TITLES = {
    "ttft": "time to first token",
    "tpot": "time per output token",
    "itl": "inter-token latency",
    "e2el": "end-to-end latency",
}
RATES = {
    "completed": "requests completed",
    "failed": "requests failed",
    "duration": "duration, s",
    "total_input_tokens": "input tokens",
    "total_output_tokens": "output tokens",
    "request_throughput": "requests/s",
    "request_goodput": "requests/s within limits",
    "output_throughput": "output tokens/s",
    "total_token_throughput": "tokens/s",
}

Numbers = Mapping[str, Any]
"""As `metrics.summarize` makes them, with the run's `max_concurrency`."""


def table(runs: Sequence[Numbers], options: ReportOptions) -> Table:
    """A column for each run."""
    made = Table("")
    for run in runs:
        limit = run["max_concurrency"]
        made.add_column("all at once" if limit is None else f"{limit} at a time", justify="right")
    for name, title in RATES.items():
        if name in runs[0]:
            made.add_row(title, *(_number(run[name]) for run in runs))
    for name in options.metrics:
        made.add_section()
        shown = ("mean", "median", *(f"p{percentile:g}" for percentile in options.percentiles))
        for kind in shown:
            values = (_number(run[f"{kind}_{name}_ms"]) for run in runs)
            made.add_row(f"{TITLES[name]}, {kind}, ms", *values)
    return made


def save(path: Path, settings: Mapping[str, Any], runs: Sequence[Numbers]) -> None:
    """settings and runs as JSON; a time that was not met becomes null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_finite({**settings, "runs": list(runs)}), indent=1) + "\n")


def plot(path: Path, runs: Sequence[Numbers], title: str) -> None:
    """Output tokens/s against the time to the first token and between tokens, a point for each run.

    ValueError if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("a plot needs matplotlib: install pieria[bench]") from None
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    figure.suptitle(title)
    for axes, name in zip(figure.subplots(1, 2), ("ttft", "itl"), strict=True):
        throughput = [run["output_throughput"] for run in runs]
        for kind, style in (("median", "o-"), ("p99", "x--")):
            key = f"{kind}_{name}_ms"
            if all(key in run for run in runs):
                axes.plot(throughput, [run[key] for run in runs], style, label=kind)
        for run, x in zip(runs, throughput, strict=True):
            limit = run["max_concurrency"]
            axes.annotate(
                "all" if limit is None else str(limit),
                (x, run[f"median_{name}_ms"]),
                textcoords="offset points",
                xytext=(5, 5),
            )
        axes.set(xlabel="output tokens/s", ylabel=f"{TITLES[name]}, ms", yscale="log")
        axes.grid(alpha=0.3, which="both")
        axes.legend(title="label: most requests at a time", fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def _finite(value: Any) -> Any:
    if isinstance(value, float) and (value != value or value in (float("inf"), -float("inf"))):
        return None if value != value else str(value)
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return str(value) if isinstance(value, Path) else value
