"""How far predictions were from published measurements: the table that stands beside each one.

Knows rows that were compared. Does not know how they were predicted: `compare` does.

`published_errors.json` is this table as it was made last, by

    python -m benchmarks.published_errors CSV
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from statistics import median

from pieria.plan.accuracy import Point

FILE = "published_errors.json"

METRICS = {
    "ttft": "TTFT",
    "tpot": "TPOT",
    "output_tokens_per_s_total": "answer tokens/s, at the largest load",
}
"""Those with a row of their own; of all others there are few measurements each."""


@dataclass(frozen=True)
class ErrorRow:
    """Measurements of one kind. saturated: requests had to wait for others to end.

    rows: how many there are; predicted: of these. median, worst: of |predicted - measured| /
    measured; bias: the median with its sign. All three are None if none was predicted.
    """

    metric: str
    machine: str
    saturated: bool
    rows: int
    predicted: int
    median: float | None = None
    worst: float | None = None
    bias: float | None = None


def stored() -> tuple[ErrorRow, ...]:
    """As they come with the package."""
    text = (files("pieria.plan") / FILE).read_text(encoding="utf-8")
    return tuple(ErrorRow(**row) for row in json.loads(text))


def summed(compared: Sequence[Point]) -> tuple[ErrorRow, ...]:
    """The table of these rows; those with most predictions first."""
    groups: dict[tuple[str, str, bool], list[float | None]] = {}
    for one in compared:
        metric = METRICS.get(one.metric, "others")
        machine = machine_of(one.what["hardware"]) if metric != "others" else ""
        groups.setdefault((metric, machine, one.saturated), []).append(one.error)
    found = [_row(*key, errors) for key, errors in groups.items()]
    return tuple(sorted(found, key=lambda row: (-row.predicted, row.metric, row.machine)))


def machine_of(hardware: str) -> str:
    """ "H100" of "h100_sxm" and of "H100-80GB 8x node"."""
    return re.split(r"[_\- ]", hardware)[0].upper()


def _row(metric: str, machine: str, saturated: bool, errors: Sequence[float | None]) -> ErrorRow:
    known = [error for error in errors if error is not None]
    if not known:
        return ErrorRow(metric, machine, saturated, len(errors), 0)
    sizes = [abs(error) for error in known]
    found = (round(x, 4) for x in (median(sizes), max(sizes), median(known)))
    return ErrorRow(metric, machine, saturated, len(errors), len(known), *found)
