"""Results as a table in Markdown and as plots. Knows works and results, not how they came about."""

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.peers.costs import Costs
from benchmarks.peers.run import Results
from benchmarks.peers.work import WORKS, Measure, Work

OURS = "pieria"


def markdown(
    facts: Mapping[str, Any],
    results: Results,
    costs: Costs,
    aims: Mapping[str, str] | None = None,
) -> str:
    """facts: model, precision, machine, date, versions and settings of the engines, repeats,
    threads, settle. aims: by work; None: the works' own, for 16 bits.
    """
    names = list(facts["engines"])
    lines = [
        f"# {facts['model']}, {facts['precision']}, on {facts['machine']}",
        "",
        f"{facts['date']}, {facts['threads']} threads. Medians of {facts['repeats']}, engines in"
        f" turn, the first {facts['settle']:g} s after it has loaded, the others held still; in"
        " brackets the range, and n where there are fewer. The last columns are Pieria against"
        " the best peer, above 1 where Pieria is ahead, the aim for it, and the share of the"
        " machine's limit that Pieria and the best peer reach.",
        "",
        f"Limits in the same run: {results.limits['read'] / 1e9:.1f} GB/s read,"
        f" {results.limits['bf16'] / 1e9:.0f} GFLOP/s in bfloat16 (torch).",
        "",
        f"| | {' | '.join(names)} | Pieria / best peer | aim | of limit |",
        "|---" * (len(names) + 4) + "|",
    ]
    for work in WORKS:
        if work.name in results.samples or work.name in results.problems:
            lines += [_row(work, measure, names, results, costs, aims) for measure in work.measures]
    lines += ["", "| engine | version | how it is set | says |", "|---|---|---|---|"]
    for name, engine in facts["engines"].items():
        said = results.said.get(name, "")
        wrong = "" if results.sane.get(name) else "**not counted**: "
        lines.append(
            f"| {name} | {engine['version']} | {engine['settings']} | {wrong}{_cell(said)} |"
        )
    notes = [
        f"- {work}, {engine}: {_cell(why)}"
        for work, found in results.problems.items()
        for engine, why in found.items()
    ]
    notes += [
        f"- {work}, {engine}: {count} requests failed"
        for work, found in results.failed.items()
        for engine, count in found.items()
        if count
    ]
    return "\n".join([*lines, *(["", "Failures:", "", *notes] if notes else [])]) + "\n"


def ratio(results: Results, work: str, measure: Measure) -> float | None:
    """Pieria to the best peer, above 1 where Pieria is ahead; None if one of them is not there."""
    found = medians(results, work, measure)
    peers = [value for name, value in found.items() if name != OURS]
    if OURS not in found or not peers:
        return None
    best, ours = (max if measure.higher_is_better else min)(peers), found[OURS]
    above, below = (ours, best) if measure.higher_is_better else (best, ours)
    return above / below if below > 0 else None


def medians(results: Results, work: str, measure: Measure) -> dict[str, float]:
    found = results.samples.get(work, {})
    return {
        name: median(values[measure.key]) for name, values in found.items() if measure.key in values
    }


def plot(results: Results, folder: Path, title: str) -> None:
    """ratios.svg: each work's ratio to the best peer; server.svg: throughput and latency."""
    from matplotlib.figure import Figure

    rows = [
        (f"{work.title}{measure.title}", found)
        for work in WORKS
        for measure in work.measures
        if (found := ratio(results, work.name, measure)) is not None
    ]
    if rows:
        figure = Figure(figsize=(9, 1 + 0.35 * len(rows)), layout="constrained")
        axes = figure.subplots()
        labels, values = zip(*reversed(rows), strict=True)
        bars = axes.barh(labels, values, color=["C0" if value >= 1 else "C3" for value in values])
        axes.bar_label(bars, fmt="%.2f", padding=3)
        axes.axvline(1, color="black", linewidth=1)
        axes.set(title=title, xlabel="Pieria / best peer, above 1: Pieria is ahead")
        figure.savefig(folder / "ratios.svg")
    served = [work for work in WORKS if work.kind == "server" and work.name in results.samples]
    if served:
        figure = Figure(figsize=(11, 4.5), layout="constrained")
        figure.suptitle(f"{title}: servers, label: streams")
        left, right = figure.subplots(1, 2)
        names = {name for work in served for name in results.samples[work.name]}
        for name in sorted(names):
            runs = [
                (work, {k: median(v) for k, v in results.samples[work.name][name].items()})
                for work in served
                if name in results.samples[work.name]
            ]
            rates = [run["rate"] for _, run in runs]
            for axes, key in ((left, "ttft"), (right, "itl")):
                axes.plot(rates, [run[key] for _, run in runs], "o-", label=name)
                for work, run in runs:
                    axes.annotate(
                        str(work.requests),
                        (run["rate"], run[key]),
                        textcoords="offset points",
                        xytext=(5, 5),
                    )
        left.set(xlabel="output tokens/s", ylabel="time to first token, p50, ms", yscale="log")
        right.set(xlabel="output tokens/s", ylabel="inter-token time, p50, ms", yscale="log")
        for axes in (left, right):
            axes.grid(alpha=0.3, which="both")
            axes.legend()
        figure.savefig(folder / "server.svg")


def _row(
    work: Work,
    measure: Measure,
    names: list[str],
    results: Results,
    costs: Costs,
    aims: Mapping[str, str] | None,
) -> str:
    cells = [_value(work, measure, name, results) for name in names]
    found = ratio(results, work.name, measure)
    title = f"{work.title}{measure.title}, {measure.unit}"
    # What the machine multiplies was measured in 16 bits alone.
    shares = "–" if aims is not None and work.kind == "prompt" else None
    shares = shares or _shares(work, measure, results, costs)
    aim = measure.aim if aims is None else aims.get(work.name, "–")
    shown = "–" if found is None else f"**{found:.2f}**"
    return f"| {title} | {' | '.join(cells)} | {shown} | {aim} | {shares} |"


def _value(work: Work, measure: Measure, name: str, results: Results) -> str:
    values = results.samples.get(work.name, {}).get(name, {}).get(measure.key)
    if not values:
        return "failed" if name in results.problems.get(work.name, {}) else "–"
    most = max(len(each[measure.key]) for each in results.samples[work.name].values())
    fewer = f", n={len(values)}" if len(values) < most else ""
    spread = f" ({_number(min(values))}..{_number(max(values))}{fewer})" if len(values) > 1 else ""
    return f"{_number(median(values))}{spread or fewer.replace(',', '')}"


def _shares(work: Work, measure: Measure, results: Results, costs: Costs) -> str:
    """How much of the read or the arithmetic limit Pieria and the best peer reach."""
    found = medians(results, work.name, measure)
    if work.kind == "decode":
        share = costs.decode_bytes(work.own + work.output // 2) / results.limits["read"]
    elif work.kind == "prompt":
        share = costs.prompt_flops(work.own) / work.own / results.limits["bf16"]
    else:
        return "–"
    ours = found.pop(OURS, None)
    reached = (ours, max(found.values(), default=None))
    return ", ".join("–" if rate is None else f"{rate * share:.0%}" for rate in reached)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
