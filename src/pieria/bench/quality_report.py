"""What formats cost, as a table, a file and a plot. Knows the numbers, not how they came about."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from pieria.bench.quality import Quality

EXACT = 1e-7
"""Nats a token: less is the rounding of float32 itself, and would press all else together."""

COLORS = 10
MARKERS = "os^DvP"


def table(found: Sequence[Quality], title: str) -> Table:
    """A row for each format, in their order."""
    made = Table(title=title, title_justify="left")
    made.add_column("format")
    for heading in ("bits", "perplexity", "KL, nats", "same token", "prompt tok/s", "decode tok/s"):
        made.add_column(heading, justify="right")
    for one in found:
        made.add_row(
            one.format,
            f"{one.bits:.2f}",
            f"{one.perplexity:.3f}",
            f"{one.kl:.3g}",
            f"{one.agreement:.2%}",
            f"{one.prompt_rate:.0f}",
            f"{one.decode_rate:.1f}",
        )
    return made


def save(path: Path, settings: Mapping[str, Any], found: Sequence[Any]) -> None:
    """Settings and a dataclass for each format, as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = {**settings, "formats": [asdict(one) for one in found]}
    path.write_text(json.dumps(numbers, indent=1, default=str) + "\n")


def plot(path: Path, found: Sequence[Quality], title: str) -> None:
    """KL over bits of a weight, and over tokens/s one by one; none of float32 and what is as good.

    ValueError if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("a plot needs matplotlib: install pieria[bench]") from None
    shown = sorted((one for one in found if one.kl > EXACT), key=lambda one: one.kl, reverse=True)
    figure = Figure(figsize=(13, 6), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2, sharey=True)
    for place, one in enumerate(shown):
        # Formats of as many bits lie together: a legend tells more than names beside the points.
        color, marker = f"C{place % COLORS}", MARKERS[place // COLORS % len(MARKERS)]
        left.plot(one.bits, one.kl, marker, color=color)
        right.plot(one.decode_rate, one.kl, marker, color=color, label=one.format)
    left.set_xlabel("bits of a weight, scales included")
    left.set_ylabel("mean KL from float32, nats a token")
    right.set_xlabel("decode, tokens/s")
    for side in (left, right):
        side.set(xscale="log", yscale="log")
        side.xaxis.set_major_formatter("{x:g}")
        side.xaxis.set_minor_formatter("{x:g}")
        side.grid(alpha=0.3, which="both")
    figure.legend(loc="outside right upper", title="most KL first", fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
