"""Charts of what a machine holds and how fast its calls are: memory, capacity, roofs, bounds.

Knows reports. Memory is in GiB.
"""

from collections.abc import Callable
from itertools import cycle

from pieria.config import format_size
from pieria.plan.calls import Calls, calls
from pieria.plan.figures import (
    BLUE,
    BROWN,
    COLORS,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    Chart,
    bands,
    figure_of,
)
from pieria.plan.placed import MemoryUse
from pieria.plan.serve_report import ServeReport
from pieria.plan.surfaces import Roof

GIB = 2**30
MOST_RANKS = 16
"""Ranks that have a bar of memory each; with more, pipeline stages do."""
MOST_CONTEXTS = 6
"""Of an axis, that are named: more would not fit a narrow window."""
MOST_CALLS = 7
"""Names of calls that have a colour; others are one."""


def memory(report: ServeReport) -> Chart:
    """What a card's memory holds, rank by rank."""
    one = report.evaluated[0]
    size = one.label.arrangement.replica_cards
    each = size // len(one.memory)
    if size <= MOST_RANKS:
        bars = [(f"rank {i}", one.memory[i // each]) for i in range(size)]
    else:
        bars = [(f"stage {use.stage}: {each} ranks", use) for use in one.memory]
    parts: tuple[tuple[str, str, Callable[[MemoryUse], int]], ...] = (
        ("weights", BLUE, lambda use: use.weights),
        ("activations and buffers", ORANGE, lambda use: use.activations + use.buffers),
        ("cache", GREEN, lambda use: use.cache),
        ("free", "#dfe5ea", lambda use: use.free),
        ("not the engine's", GREY, lambda use: use.reserved),
    )
    figure = figure_of("GiB of a card", "")
    for name, color, of in parts:
        figure.add_bar(
            x=[of(use) / GIB for _, use in bars],
            y=[label for label, _ in bars],
            text=[format_size(of(use)) for _, use in bars],
            textposition="none",
            name=name,
            orientation="h",
            marker={"color": color},
            hovertemplate=f"{name}: %{{text}}<extra>%{{y}}</extra>",
        )
    height = 210 + 26 * len(bars)
    figure.update_layout(barmode="stack", height=height, bargap=0.25, legend_traceorder="normal")
    figure.update_yaxes(autorange="reversed", type="category")
    pools = "each replica for answers" if report.detail.wire else "each replica"
    says = f"Of {pools}; {report.device.name} has {report.device.memory}."
    return Chart("memory", "Memory by rank", says, figure)


def capacity(report: ServeReport) -> Chart:
    """How many requests fit at once, by their length."""
    found = report.evaluated[0].capacities
    held = [n for c in found for n in (c.in_memory, c.at_once) if n]
    figure = figure_of(
        "tokens of each request", "requests at once", log_x=[1.0], log_y=held or [1.0]
    )
    for name, color, dash, counts in (
        ("as memory alone allows", SKY, "dot", [c.in_memory for c in found]),
        ("with seats, in the cache as it is", GREEN, "solid", [c.at_once for c in found]),
    ):
        figure.add_scatter(
            # Nothing is nowhere on a logarithmic axis.
            x=[c.context for c, count in zip(found, counts, strict=True) if count],
            y=[count for count in counts if count],
            name=name,
            mode="lines+markers",
            line={"color": color, "dash": dash},
            hovertemplate=f"%{{y:,}} requests of %{{x:,}} tokens<extra>{name}</extra>",
        )
    places = [c.context for c in found]
    if len(places) > 1 and places[-1] < 1.5 * places[-2]:
        del places[-2:-1]
    places = places[:: -(-len(places) // MOST_CONTEXTS)]
    figure.update_xaxes(tickvals=places, ticktext=[_short(c) for c in places], tickangle=0)
    says = (
        f"All replicas together; one holds the keys and values of {found[-1].context:,} tokens at"
        " most for one request. Where a line ends, not one longer request fits."
    )
    return Chart("capacity", "Requests at once against context", says, figure)


def rooflines(report: ServeReport) -> Chart:
    """What calls of typical steps reach, under what the device allows."""
    device = report.device
    roof = Roof(device)
    assert device.bandwidth is not None
    of_steps = [(step, calls(step.explanation, device)) for step in report.detail.steps]
    points = [c for _, found in of_steps for c in found if c.peak]
    dtypes = list(dict.fromkeys(c.peak for c in points))
    rates = [c.flops / c.seconds / 1e12 for c in points if c.flops]
    spots = [c.intensity for c in points if c.intensity] or [1.0]
    least, most = min(spots) / 2, max([*spots, *(roof.peak(d) / roof.bandwidth for d in dtypes)])
    edge = [least, 4 * most]
    figure = figure_of("flops for each byte", "TFLOP/s", log_x=edge, log_y=rates or [1.0])
    for dtype, color in zip(dtypes, cycle((GREY, BROWN, PURPLE)), strict=False):
        peak, bandwidth = roof.peak(dtype), roof.bandwidth
        x = [edge[0], peak / bandwidth, edge[1]]
        figure.add_scatter(
            x=x,
            y=[min(peak, at * bandwidth) / 1e12 for at in x],
            name=f"{dtype}: {peak / 1e12:,.0f} TFLOP/s",
            mode="lines",
            line={"color": color, "width": 2},
            hoverinfo="name",
        )
        stated = device.peak(dtype)
        if stated is not None and stated.low is not None:
            low, high = stated.bounds
            slow, fast = device.bandwidth.bounds
            turns = sorted({edge[0], low / slow, high / fast, peak / bandwidth, edge[1]})
            upper = [min(high, at * fast) / 1e12 for at in turns]
            lower = [min(low, at * slow) / 1e12 for at in turns]
            figure.add_scatter(
                x=[*turns, *reversed(turns)],
                y=[*upper, *reversed(lower)],
                name=dtype,
                showlegend=False,
                mode="lines",
                fill="toself",
                line={"width": 0, "color": color},
                opacity=0.3,
                hoverinfo="skip",
            )
    for (step, found), color, symbol in zip(
        of_steps, (BLUE, RED), ("circle", "diamond"), strict=False
    ):
        shown = [c for c in found if c.peak and c.flops]
        whole = sum(c.all_seconds for c in found) or 1.0
        figure.add_scatter(
            x=[c.intensity for c in shown],
            y=[c.flops / c.seconds / 1e12 for c in shown],
            text=[_said(c, whole) for c in shown],
            name=f"{step.name}: {step.requests} x {step.tokens // step.requests} tokens",
            mode="markers",
            marker={
                "color": color,
                "symbol": symbol,
                "size": [7 + 22 * (c.all_seconds / whole) ** 0.5 for c in shown],
                "opacity": 0.75,
            },
            hovertemplate="%{text}<extra></extra>",
        )
    says = (
        f"Memory gives {device.bandwidth}. Each call of two typical steps, as large as its share"
        " of the step: how far it is below the line is what measured tables say is not reached."
        " Bands: the roof between the bounds of its numbers. Calls that only move bytes are not"
        " here."
    )
    return Chart("rooflines", "Calls under the roof of a card", says, figure)


def step_parts(report: ServeReport) -> Chart:
    """What the time of typical steps is made of."""
    figure = figure_of("milliseconds of a step", "")
    labels, sums = [], []
    for step in report.detail.steps:
        labels.append(f"{step.name}:<br>{step.requests} x {step.tokens // step.requests} tokens")
        of_step: dict[str, float] = {}
        for line in step.explanation.lines:
            of_step[line.work.op] = of_step.get(line.work.op, 0.0) + line.seconds
        for name, seconds in step.explanation.extra:
            of_step[name] = of_step.get(name, 0.0) + seconds
        sums.append(of_step)
    totals: dict[str, float] = {}
    for step, of_step in zip(report.detail.steps, sums, strict=True):
        for name, seconds in of_step.items():
            share = seconds / step.explanation.seconds if step.explanation.seconds else 0.0
            totals[name] = totals.get(name, 0.0) + share
    names = sorted(totals, key=lambda name: -totals[name])
    shown, others = names[:MOST_CALLS], names[MOST_CALLS:]
    for name, color in zip([*shown, *(["others"] if others else [])], cycle(COLORS), strict=False):
        parts = others if name == "others" else [name]
        figure.add_bar(
            x=[1e3 * sum(of_step.get(part, 0.0) for part in parts) for of_step in sums],
            y=labels,
            name=name,
            orientation="h",
            marker={"color": color},
            hovertemplate=f"{name}: %{{x:.3f}} ms<extra></extra>",
        )
    figure.update_layout(barmode="relative", height=390, legend_traceorder="normal")
    figure.update_yaxes(autorange="reversed", type="category")
    says = "Calls of one name together, over all layers and stages; the table below has each one."
    return Chart("parts", "What a step's time is made of", says, figure)


def inferred(report: ServeReport) -> Chart | None:
    """Bounds of the numbers that are not simply known."""
    rows = [
        (a.what, a.low_share, a.high_share, a.inferred)
        for a in report.assumptions
        if a.low_share and a.high_share and a.low_share != a.high_share
    ]
    if not rows:
        return None
    says = (
        "Low and high of each number over the value that is used. Inferred ones were neither"
        " published nor measured; of others, publications differ."
    )
    return Chart("inferred", "Numbers with bounds", says, bands(rows))


def _said(call: Calls, whole: float) -> str:
    return (
        f"<b>{call.name}</b> {call.shape}<br>{call.times} x {1e6 * call.seconds:.1f} us,"
        f" {call.all_seconds / whole:.1%} of the step<br>{call.flops / call.seconds / 1e12:.3g}"
        f" TFLOP/s, {call.reached or 0.0:.0%} of the roof<br>{call.source}"
    )


def _short(tokens: int) -> str:
    return f"{tokens // 1024}K" if tokens % 1024 == 0 else str(tokens)
