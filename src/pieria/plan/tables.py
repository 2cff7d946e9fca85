"""Measured latencies of operators, as they come with the package, and interpolation between them.

Knows files and grids. Does not know what an operator is, nor rooflines: `surfaces` does.

`measured/<system>.npz` holds tables packed by `benchmarks/measured_tables.py`; see
`measured/NOTICE` for where they are from.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from math import log2
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SCALE = 1000
"""In how many steps a file keeps log2 of microseconds; 0 is no measurement."""


@dataclass(frozen=True, eq=False)
class Table:
    """keys: what tells one surface from another. axes: what it runs over, rising.

    seconds: [keys, *axes]; NaN where nothing was measured.
    """

    keys: tuple[tuple[str, ...], ...]
    axes: tuple[Array, ...]
    seconds: Array


@lru_cache(maxsize=16)
def load(system: str) -> dict[str, Table]:
    """The tables of one system by name: gemm, context_attention, generation_attention, moe, ..."""
    with (files("pieria.plan") / "measured" / f"{system}.npz").open("rb") as file:
        arrays = dict(np.load(file, allow_pickle=False))
    found = {}
    for name in sorted({key.partition(".")[0] for key in arrays}):
        parts = {k.partition(".")[2]: v for k, v in arrays.items() if k.startswith(f"{name}.")}
        packed, keys = parts.pop("log2us"), parts.pop("keys")
        seconds = np.where(packed > 0, 2.0 ** (packed / SCALE) * 1e-6, np.nan)
        axes = tuple(axis.astype(float) for axis in parts.values())
        found[name] = Table(tuple(tuple(k) for k in keys.tolist()), axes, seconds)
    return found


class Grid:
    """Positive values over up to three positive axes, linear between logarithms of both.

    Beyond an axis' ends the value there is kept. NaNs take the nearest value along the last axis,
    or else along the one before it.
    """

    def __init__(self, axes: Sequence[Array], values: Array) -> None:
        self.axes = tuple(np.log2(axis) for axis in axes)
        logs = np.log2(values)
        for axis in reversed(range(logs.ndim)):
            lines = np.moveaxis(logs, axis, -1)
            missing = np.isnan(lines)
            for at in np.argwhere(missing.any(-1) & ~missing.all(-1)):
                lines[tuple(at)] = _filled(lines[tuple(at)])
        self.logs = logs
        self._lists = [axis.tolist() for axis in self.axes]
        self._rows = logs.tolist()

    def __call__(self, *coordinates: Any) -> Any:
        """Of numbers, or of arrays of one shape."""
        total: Any = 0.0
        below, shares = [], []
        for axis, coordinate in zip(self.axes, coordinates, strict=True):
            x = np.clip(np.log2(np.maximum(coordinate, 1e-9)), axis[0], axis[-1])
            i = np.clip(np.searchsorted(axis, x, side="right") - 1, 0, max(len(axis) - 2, 0))
            if len(axis) == 1:
                below.append((i, i))
                shares.append(np.zeros_like(x))
                continue
            below.append((i, i + 1))
            shares.append((x - axis[i]) / (axis[i + 1] - axis[i]))
        for corner in range(2 ** len(below)):
            weight: Any = 1.0
            at = []
            for dim, (pair, share) in enumerate(zip(below, shares, strict=True)):
                side = corner >> dim & 1
                weight = weight * (share if side else 1 - share)
                at.append(pair[side])
            total = total + weight * self.logs[tuple(at)]
        return 2.0**total

    def at(self, first: float, second: float) -> float:
        """Of two axes at one place: the same, many times as fast."""
        i, u = _place(self._lists[0], first)
        j, v = _place(self._lists[1], second)
        low, high = self._rows[i], self._rows[min(i + 1, len(self._rows) - 1)]
        k = min(j + 1, len(low) - 1)
        near = low[j] + v * (low[k] - low[j])
        far = high[j] + v * (high[k] - high[j])
        made: float = 2.0 ** (near + u * (far - near))
        return made


def _place(axis: list[float], value: float) -> tuple[int, float]:
    """Which interval of a list of logarithms holds a value, and where in it from 0 to 1."""
    x = log2(value)
    if x <= axis[0]:
        return 0, 0.0
    if x >= axis[-1]:
        return len(axis) - 1, 0.0
    i = bisect_right(axis, x) - 1
    return i, (x - axis[i]) / (axis[i + 1] - axis[i])


def _filled(line: Array) -> Array:
    """Of a line some of which is known."""
    known = np.flatnonzero(~np.isnan(line))
    after = np.searchsorted(known, np.arange(len(line)))
    nearest = known[np.clip(after, 0, len(known) - 1)]
    before = known[np.clip(after - 1, 0, len(known) - 1)]
    closer = np.abs(np.arange(len(line)) - before) < np.abs(nearest - np.arange(len(line)))
    made: Array = line[np.where(closer, before, nearest)]
    return made
