"""How charts look: figures of plotly with the axes, colours and margins that all of them share.

Knows plotly's figures. Does not know reports.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log10

from plotly import graph_objects as go

BLUE, ORANGE, GREEN, RED, PURPLE, BROWN, SKY, GREY = (
    *("#0072b2", "#e69f00", "#009e73", "#d55e00", "#9a5fb4", "#8c6d31", "#56b4e9"),
    "#9aa5b1",
)
"""Those that people who see fewer colours tell apart (Okabe and Ito, 2008), and two more."""
COLORS = (BLUE, ORANGE, GREEN, RED, PURPLE, BROWN, SKY, GREY)

WIDE = 20.0
"""How many times the least of some bounds the most is, where their axis is logarithmic."""


@dataclass(frozen=True)
class Chart:
    """key: its name in the page. says: what is seen, in a sentence or two."""

    key: str
    title: str
    says: str
    figure: go.Figure


def figure_of(
    x: str, y: str, *, log_x: Sequence[float] = (), log_y: Sequence[float] = ()
) -> go.Figure:
    """log_x, log_y: what is shown on that axis, where it is logarithmic."""
    axis = {"gridcolor": "#e6eaee", "zeroline": False, "linecolor": "#9aa5b1"}
    return go.Figure(
        layout={
            "template": {"layout": {"colorway": list(COLORS)}},
            "font": {"family": "system-ui, sans-serif", "size": 13, "color": "#1c2733"},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "margin": {"l": 12, "r": 16, "t": 12, "b": 52},
            "height": 400,
            "legend": {"orientation": "h", "x": 0, "y": 1.06, "yanchor": "bottom"},
            "hoverlabel": {"align": "left"},
            "xaxis": {"title": {"text": x}, **axis, **_log(log_x, 30)},
            "yaxis": {"title": {"text": y}, "automargin": True, **axis, **_log(log_y, 1000)},
        }
    )


def _log(values: Sequence[float], narrow: float) -> dict[str, object]:
    """A logarithmic axis, with three numbers a decade where the most is less than `narrow` times
    the least, one where it is 1000 times as much, else two.
    """
    if not values:
        return {}
    span = max(values) / min(values)
    digits = (1, 2, 5) if span < narrow else (1, 3) if span < 1000 else (1,)
    ticks = [digit * 10.0**power for power in range(-4, 9) for digit in digits]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:,.10g}" for tick in ticks]}


def bands(rows: "list[tuple[str, float, float, bool]]") -> go.Figure:
    """A band a row, of (name, low, high, whether it is inferred), around 1."""
    least, most = min(row[1] for row in rows), max(row[2] for row in rows)
    is_wide = most > WIDE * least
    figure = figure_of("of the value", "", log_x=(least, most) if is_wide else ())
    ends = [log10(0.9 * least), log10(1.1 * most)] if is_wide else [least, most]
    pad = 0.0 if is_wide else 0.05 * (most - least)
    figure.update_xaxes(range=[ends[0] - pad, ends[1] + pad])
    if is_wide:  # names leave little room in narrow windows
        figure.update_xaxes(tickvals=(0.001, 0.01, 0.1, 1, 10, 100, 1000), ticktext=None)
    kinds = ("inferred", ORANGE, True), ("published or measured", BLUE, False)
    for name, color, is_kind in kinds:
        found = [row for row in rows if row[3] == is_kind]
        if found:
            figure.add_scatter(
                # A gap between one row's line and the next one's.
                x=[at for _, low, high, _ in found for at in (low, high, None)],
                y=[of for label, *_ in found for of in (_folded(label),) * 3],
                name=name,
                mode="lines",
                line={"color": color, "width": 11},
                hovertemplate="%{y}: %{x:.3g}<extra></extra>",
            )
    figure.add_vline(x=1, line={"color": "#1c2733", "width": 1})
    figure.update_layout(height=130 + 36 * len(rows), showlegend=len({row[3] for row in rows}) > 1)
    names = [_folded(label) for label, *_ in rows]
    figure.update_yaxes(
        categoryorder="array", categoryarray=names[::-1], type="category", tickfont={"size": 11}
    )
    return figure


def _folded(label: str) -> str:
    """In two lines where it has two parts, for narrow windows."""
    return label.replace(": ", ":<br>")
