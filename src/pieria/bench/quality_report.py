"""What formats cost, as a table, a file and a plot. Knows the numbers, not how they came about."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from pieria.bench.quality import Quality


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
    """KL over bits of a weight, and over tokens/s one by one; float32 itself has none.

    ValueError if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("a plot needs matplotlib: install pieria[bench]") from None
    shown = [one for one in found if one.kl > 0]
    figure = Figure(figsize=(13, 6), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(1, 2, sharey=True)
    for side, name, label in (
        (axes[0], "bits", "bits of a weight, scales included"),
        (axes[1], "decode_rate", "decode, tokens/s"),
    ):
        for one in shown:
            place = (getattr(one, name), one.kl)
            side.plot(*place, "o")
            side.annotate(
                one.format, place, textcoords="offset points", xytext=(5, 3), fontsize="small"
            )
        side.set(xlabel=label, yscale="log")
        side.grid(alpha=0.3, which="both")
    axes[0].set_ylabel("mean KL from float32, nats a token")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
