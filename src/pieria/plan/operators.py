"""A device's own measured operators, each predicted from all others of them.

Knows rows of operators and `Timing`. Where a device was measured in few places, what it reaches is
another device's utilisation times a factor, the median of what its rows of one class give; a row is
predicted with the factor of the others, so that nothing of it is in its prediction. A link's stated
efficiency is such a row's, so links are taken to be perfect before the factor.
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.resources import files
from statistics import median

from pieria.hardware import catalog
from pieria.hardware.cluster import ClusterSpec
from pieria.plan.accuracy import Point
from pieria.plan.practice import ENGINE
from pieria.plan.precision import PRECISIONS
from pieria.plan.routing import BALANCED
from pieria.plan.surfaces import stream_seconds
from pieria.plan.timing import Timing
from pieria.plan.work import Attention, Product

LARGE_MISS = 0.3


@dataclass(frozen=True)
class Operator:
    """As its line has it. rate: of flops or bytes a second; low, high: where sources disagree."""

    name: str
    kind: str
    dtype: str
    shape: tuple[str, ...]
    rate: float
    low: float | None
    high: float | None
    unit: str
    source: str
    note: str

    @property
    def group(self) -> str:
        """Those that a factor is taken over: of one kind, by the unit that multiplies."""
        return f"{self.kind} {UNITS.get(self.dtype, '')}".strip()


UNITS = {"float32": "float32"}
"""Dtypes that are not multiplied by the matrix unit."""
SCALES = {"TFLOP/s": 1e12, "TOP/s": 1e12, "GB/s": 1e9}
PRECISION = {"float8_e4m3fn": "fp8", "tfloat32": "bfloat16"}


def operators(device: str) -> list[Operator]:
    """ValueError, naming those there are, for a device none of whose operators are known."""
    name, _ = catalog.counted(device)
    folder = files("pieria.plan") / "measured"
    file = folder / f"{name}.csv"
    if not file.is_file():
        known = sorted(
            f.name.removesuffix(".csv") for f in folder.iterdir() if f.name.endswith(".csv")
        )
        raise ValueError(
            f"no measured operators of {device!r}; there are those of {', '.join(known)}"
        )
    with file.open(encoding="utf-8") as lines:
        return [
            Operator(
                row["name"],
                row["kind"],
                row["dtype"],
                tuple(row["shape"].split()),
                float(row["value"]),
                float(row["low"]) if row["low"] else None,
                float(row["high"]) if row["high"] else None,
                row["unit"],
                row["source"],
                row["note"],
            )
            for row in csv.DictReader(lines)
        ]


def compare(device: str) -> list[Point]:
    """Every operator by the others."""
    found = operators(device)
    cluster = _perfect(catalog.cluster(catalog.counted(device)[0]))
    timings = {
        name: Timing(cluster, PRECISIONS[name], BALANCED, ENGINE)
        for name in {_precision(row) for row in found}
    }
    alike = [_rate(row, timings[_precision(row)]) for row in found]
    points = []
    for i, row in enumerate(found):
        others = [j for j, other in enumerate(found) if j != i and other.group == row.group]
        factor = (
            median(found[j].rate * _scale(found[j]) / alike[j] for j in others) if others else 1.0
        )
        predicted = alike[i] * factor / _scale(row)
        predicted = min(predicted, _floor(row, [*found[:i], *found[i + 1 :]]))
        is_large = abs(predicted / row.rate - 1) > LARGE_MISS
        points.append(
            Point(
                {"device": cluster.device.name, "operator": row.name, "source": row.source},
                row.kind,
                row.unit,
                row.rate,
                predicted,
                row.note if is_large else "",
                row.low,
                row.high,
            )
        )
    return points


def _scale(row: Operator) -> float:
    return SCALES[row.unit]


def _floor(row: Operator, others: list[Operator]) -> float:
    """A product's most, where it takes at least as long as the shortest of the others."""
    if row.kind != "product":
        return float("inf")
    products = [other for other in others if other.kind == "product"]
    shortest = min(_flops(other) / (other.rate * _scale(other)) for other in products)
    return _flops(row) / shortest / _scale(row)


def _flops(row: Operator) -> float:
    m, n, k = map(float, row.shape)
    return 2 * m * n * k


def _precision(row: Operator) -> str:
    return PRECISION.get(row.dtype, row.dtype) or "bfloat16"


def _rate(row: Operator, timing: Timing) -> float:
    """Flops or bytes a second with the utilisation of another device."""
    device = timing.cluster.device
    if row.kind == "stream":
        (size,) = map(float, row.shape)
        assert device.bandwidth is not None
        return float(size / stream_seconds(size, device.bandwidth.value))
    if row.kind == "exchange":
        op, ranks, size = row.shape[0], int(row.shape[1]), float(row.shape[2])
        return BUS[op](ranks) * size / float(timing.collectives.seconds(op, size, ranks))
    if row.kind == "attention":
        batch, heads, tokens, size = map(int, row.shape)
        each = (tokens,) * batch
        work = Attention("", heads, heads, size, size, None, 2 * 2 * heads * size, each, each)
        # The rate is that of the pairs that a mask leaves; without one there are twice as many.
        flops = 2.0 * heads * size * batch * tokens * (tokens + 1)
        return flops / float(timing.of(work).seconds)
    m, n, k = map(int, row.shape)
    rate = _flops(row) / float(timing.of(Product("", m, k, n, 1, "layer")).seconds)
    if row.dtype == "tfloat32":
        peaks = [device.peak(dtype) for dtype in ("tfloat32", "bfloat16")]
        assert peaks[0] and peaks[1]
        rate *= peaks[0].value / peaks[1].value
    return rate


BUS: dict[str, Callable[[int], float]] = {
    "all_reduce": lambda n: 2 * (n - 1) / n,
    "all_gather": lambda n: (n - 1) / n,
    "reduce_scatter": lambda n: (n - 1) / n,
    "alltoall": lambda n: (n - 1) / n,
    "broadcast": lambda n: 1.0,
    "send": lambda n: 1.0,
}
"""Bytes on a bus for each byte of the message, as nccl-tests has it."""


def _perfect(cluster: ClusterSpec) -> ClusterSpec:
    """With links that carry all that they are rated for."""
    first = cluster.tiers[0]
    efficiency = replace(first.link.efficiency, value=1.0, low=1.0, high=1.0)
    link = replace(first.link, efficiency=efficiency)
    return replace(cluster, tiers=(replace(first, link=link), *cluster.tiers[1:]))
