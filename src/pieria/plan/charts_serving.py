"""Charts of how a model is served: latency, throughput, steps and load over time.

Knows reports. Latencies are in milliseconds.
"""

from collections.abc import Callable

from pieria.plan.figures import BLUE, GREEN, GREY, ORANGE, RED, SKY, Chart, bands, figure_of
from pieria.plan.outcome import StepSpan
from pieria.plan.serve_report import ServeReport
from pieria.plan.serving import Summary

MOST_STEPS = 400
"""In a timeline, of the steps that a simulation keeps."""


def ways(report: ServeReport) -> Chart | None:
    """Tokens a second of a card over the time of a token: every way, and those that none beats."""
    if len(report.evaluated) < 2:
        return None
    figure = figure_of("TPOT, median [ms]", "answer tokens/s of a card")
    front = set(report.pareto)
    for name, color, size, places in (
        ("another way is better in everything", GREY, 9, set(range(len(report.evaluated))) - front),
        ("none is better in everything", BLUE, 12, front),
    ):
        chosen = sorted((report.evaluated[i] for i in places), key=lambda e: e.summary.tpot.p50)
        figure.add_scatter(
            x=[1e3 * one.summary.tpot.p50 for one in chosen],
            y=[one.summary.card_tokens_per_second for one in chosen],
            text=[f"{o.label}, {o.label.precision}, {o.label.max_num_seqs} seats" for o in chosen],
            name=name,
            mode="markers",
            marker={"color": color, "size": size},
            hovertemplate="%{text}<br>TPOT %{x:.1f} ms, %{y:.1f} tokens/s a card<extra></extra>",
        )
    first, detail = report.evaluated[0].summary, report.detail
    figure.add_scatter(
        x=[1e3 * first.tpot.p50],
        y=[first.card_tokens_per_second],
        name="the best, and its bounds",
        mode="markers",
        marker={"color": RED, "size": 14, "symbol": "star"},
        error_x=_error(report, lambda s: s.tpot.p50, 1e3),
        error_y=_error(report, lambda s: s.card_tokens_per_second),
        hovertemplate=f"{report.evaluated[0].label}<br>TPOT %{{x:.1f}} ms<extra></extra>",
    )
    says = (
        f"All {len(report.evaluated)} layouts, formats and limits that were simulated; right and"
        " low is worse. Of the Pareto set, each is better than every other one in the time of a"
        " token, the time to the first or the throughput."
    )
    if detail.worst is None:
        says += " At its worst numbers the best does not fit."
    return Chart("ways", "Throughput against latency", says, figure)


def loads(report: ServeReport) -> Chart:
    """Latencies of the best way over its throughput, as the load grows."""
    curve = sorted(report.detail.curve, key=lambda s: s.offered)
    unit = "users" if report.evaluated[0].summary.is_closed else "requests/s"
    times = [1e3 * t for s in curve for t in (s.ttft.p50, s.ttft.p99, s.tpot.p50, s.tpot.p99) if t]
    figure = figure_of("answer tokens/s of all cards", "milliseconds", log_y=times or [1.0])
    lines: tuple[tuple[str, str, str, Callable[[Summary], float]], ...] = (
        ("TTFT p50", BLUE, "solid", lambda s: s.ttft.p50),
        ("TTFT p99", BLUE, "dot", lambda s: s.ttft.p99),
        ("TPOT p50", ORANGE, "solid", lambda s: s.tpot.p50),
        ("TPOT p99", ORANGE, "dot", lambda s: s.tpot.p99),
    )
    for name, color, dash, of in lines:
        figure.add_scatter(
            x=[s.answer_tokens_per_second for s in curve],
            y=[1e3 * of(s) for s in curve],
            text=[f"{s.offered:.3g} {unit}" for s in curve],
            name=name,
            mode="lines+markers",
            line={"color": color, "dash": dash},
            hovertemplate=f"{name} %{{y:.1f}} ms<br>%{{text}}, %{{x:,.0f}} tokens/s<extra></extra>",
        )
    for name, most, color in (
        ("TTFT", report.slo.ttft, BLUE),
        ("TPOT", report.slo.tpot, ORANGE),
    ):
        if most is not None:
            x = [s.answer_tokens_per_second for s in curve]
            figure.add_scatter(
                x=[min(x), max(x)],
                y=[1e3 * most] * 2,
                name=f"{name} of the SLO",
                mode="lines",
                line={"color": color, "width": 1, "dash": "dash"},
                hoverinfo="name+y",
            )
    says = (
        f"{report.evaluated[0].label} at {len(curve)} loads, the last one the largest that it may"
        " keep up with by a bound."
    )
    kept = report.detail.within_slo
    if kept is not None:
        says += f" The largest of them that keeps the SLO is {kept:.3g} {unit}."
    return Chart("loads", "Latency as the load grows", says, figure)


def distribution(report: ServeReport) -> Chart | None:
    """The share of requests that were as fast as that."""
    served = report.detail.simulation.served
    if not served:
        return None
    every = [1e3 * t for s in served for t in (s.ttft, s.tpot) if t]
    figure = figure_of("milliseconds", "share of requests", log_x=every)
    shares = [i / 200 for i in range(201)]
    for name, color, times in (
        ("TTFT", BLUE, sorted(s.ttft for s in served)),
        ("TPOT", ORANGE, sorted(s.tpot for s in served if s.answer > 1)),
    ):
        if times:
            figure.add_scatter(
                x=[1e3 * times[round(share * (len(times) - 1))] for share in shares],
                y=shares,
                name=name,
                mode="lines",
                line={"color": color},
                hovertemplate=f"{name} of %{{y:.0%}} is at most %{{x:.1f}} ms<extra></extra>",
            )
    figure.update_yaxes(tickformat=".0%", range=[0, 1])
    says = f"Of {len(served):,} requests, simulated one by one: {report.workload}."
    if len(report.evaluated) > 1:
        says += " A search simulates fewer than the workload has."
    return Chart("distribution", "How long requests take", says, figure)


def timeline(report: ServeReport) -> Chart | None:
    """The first steps of every replica."""
    pools = [pool for pool in report.detail.simulation.pools if pool.timeline]
    if not pools:
        return None
    each = MOST_STEPS // len(pools)
    figure = figure_of("seconds", "")
    rows: dict[str, None] = {}
    kinds: tuple[tuple[str, str, Callable[[StepSpan], bool]], ...] = (
        ("answers alone", SKY, lambda step: step.tokens == step.requests),
        ("with prompts", RED, lambda step: step.tokens != step.requests),
    )
    for name, color, is_kind in kinds:
        spans = [
            (f"{'replica' if len(pools) == 1 else pool.name} {step.replica}", step)
            for pool in pools
            for step in pool.timeline[:each]
            if is_kind(step)
        ]
        rows |= dict.fromkeys(row for row, _ in spans)
        figure.add_bar(
            base=[step.begin for _, step in spans],
            x=[step.seconds for _, step in spans],
            y=[row for row, _ in spans],
            text=[
                f"{step.requests} requests, {step.tokens} tokens, {1e3 * step.seconds:.2f} ms"
                for _, step in spans
            ],
            textposition="none",
            name=name,
            orientation="h",
            marker={"color": color, "line": {"color": "white", "width": 0.5}},
            hovertemplate="%{text}<br>at %{base:.3f} s<extra></extra>",
        )
    order = sorted(rows, key=lambda row: (row.rpartition(" ")[0], int(row.rpartition(" ")[2])))
    figure.update_layout(barmode="overlay", height=190 + 30 * len(order), bargap=0.3)
    figure.update_yaxes(categoryorder="array", categoryarray=order[::-1], type="category")
    says = (
        "The first steps of each replica, as the scheduler planned them; --trace writes more of"
        " them, with every call of a step."
    )
    return Chart("timeline", "Steps one after the other", says, figure)


def over_time(report: ServeReport) -> Chart | None:
    """Requests and the cache, as the simulation went."""
    pools = [pool for pool in report.detail.simulation.pools if len(pool.samples) > 1]
    if not pools:
        return None
    figure = figure_of("seconds", "requests")
    for pool, dash in zip(pools, ("solid", "dot"), strict=False):
        at = [sample.at for sample in pool.samples]
        prefix = f"{pool.name}: " if len(pools) > 1 else ""
        for name, color, values, axis in (
            ("running", BLUE, [s.running for s in pool.samples], "y"),
            ("waiting", RED, [s.waiting for s in pool.samples], "y"),
            (
                "cache in use",
                GREEN,
                [s.pages_held / pool.pages if pool.pages else 0.0 for s in pool.samples],
                "y2",
            ),
        ):
            figure.add_scatter(
                x=at,
                y=values,
                name=prefix + name,
                yaxis=axis,
                mode="lines",
                line={"color": color, "dash": dash, "width": 1.5},
            )
    figure.update_layout(
        yaxis={"domain": [0.45, 1]},
        yaxis2={**figure.layout.yaxis.to_plotly_json(), "domain": [0, 0.36], "tickformat": ".0%"},
        xaxis={"anchor": "y2"},
        height=430,
    )
    figure.update_yaxes(rangemode="tozero")
    figure.update_layout(yaxis2_title_text="cache in use")
    says = "Requests in steps and in the queue of all replicas, and the share of pages in use."
    return Chart("over-time", "Load and cache over time", says, figure)


def results_at_bounds(report: ServeReport) -> Chart | None:
    """What the bounds of the machine's numbers make of the result."""
    if not _sides(report):
        return None
    usual = report.detail.usual
    numbers: tuple[tuple[str, Callable[[Summary], float]], ...] = (
        ("TTFT p50", lambda s: s.ttft.p50),
        ("TTFT p99", lambda s: s.ttft.p99),
        ("TPOT p50", lambda s: s.tpot.p50),
        ("TPOT p99", lambda s: s.tpot.p99),
        ("answer tokens/s", lambda s: s.answer_tokens_per_second),
    )
    rows = [
        (name, [of(side) / of(usual) for side in _sides(report)])
        for name, of in numbers
        if of(usual) and all(of(side) for side in _sides(report))
    ]
    says = "The same simulation with every number of device and links at its worse or better bound."
    if report.detail.worst is None:
        says += " At the worse ones the model does not fit."
    spans = [(name, min([1.0, *s]), max([1.0, *s]), True) for name, s in rows]
    return Chart("bounds", "What is uncertain of the result", says, bands(spans))


def _sides(report: ServeReport) -> list[Summary]:
    return [side for side in (report.detail.worst, report.detail.best) if side is not None]


def _error(
    report: ServeReport, of: Callable[[Summary], float], scale: float = 1.0
) -> dict[str, object]:
    """Of the best way's number: as much more and less as the bounds make of it."""
    value, usual = of(report.evaluated[0].summary), of(report.detail.usual)
    sides = [value * of(side) / usual for side in _sides(report)] if usual else []
    high, low = max([value, *sides]), min([value, *sides])
    return {
        "type": "data",
        "symmetric": False,
        "array": [scale * (high - value)],
        "arrayminus": [scale * (value - low)],
    }
