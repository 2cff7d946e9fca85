"""Every op x backend x case on the clock, against what the machine's measured limits would allow.

Knows the op contract. Does not measure the limits, choose the device or print.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from pieria.clock import Clock
from pieria.ops import REFERENCE, REGISTRY, Cost, Inputs, Op, load, map_tensors

SAMPLES = 5
SAMPLE_SECONDS = 1e-3
"""About what a sample lasts, by repeating the call: reading the clock must cost little."""
MOST_REPEATS = 1000


@dataclass(frozen=True)
class Limits:
    """What the machine was measured to do at best: read memory, and compute in each dtype."""

    read_bytes_per_second: float
    flops_per_second: dict[torch.dtype, float]

    def seconds(self, cost: Cost, dtype: torch.dtype) -> float:
        """The least time that `cost` can take: the roofline (Williams et al. 2009).

        ValueError if there is no measured peak for `dtype`.
        """
        if dtype not in self.flops_per_second:
            known = ", ".join(map(str, self.flops_per_second)) or "none"
            raise ValueError(f"no measured peak for {dtype}; measured: {known}")
        return max(
            cost.bytes / self.read_bytes_per_second, cost.flops / self.flops_per_second[dtype]
        )


@dataclass(frozen=True)
class Row:
    """One timed case. seconds: median of one call; least_seconds: what the limits allow."""

    op: str
    case: str
    dtype: torch.dtype
    backend: str
    cost: Cost
    seconds: float
    least_seconds: float

    @property
    def bytes_per_second(self) -> float:
        return self.cost.bytes / self.seconds

    @property
    def flops_per_second(self) -> float:
        return self.cost.flops / self.seconds

    @property
    def share(self) -> float:
        """Share of the machine's limits; above 1 where data stays in a cache between calls."""
        return self.least_seconds / self.seconds


def run(
    backends: Sequence[str],
    pattern: str,
    clock: Clock,
    limits: Limits,
    *,
    dtypes: Sequence[torch.dtype] = (torch.float32,),
    device: str = "cpu",
    console: Console | None = None,
) -> tuple[Row, ...]:
    """Time the backends on every case that `pattern` matches.

    backends: folders of `kernels/`, or "reference". pattern: of "op/case" as of file names, such as
    "*" or "rms_norm/*". A backend without an implementation that takes a case has no row. The
    backends take turns, so that what disturbs the machine disturbs them alike. Progress goes to
    `console`. ValueError on a backend that is unknown or does not run on `device`, and on a pattern
    that matches nothing.
    """
    for name in backends:
        devices = (device,) if name == REFERENCE else load(name)
        if device not in devices:
            raise ValueError(f"backend {name!r} runs on {', '.join(devices)}, not on {device!r}")
    wanted = [
        (op, case, dtype)
        for op in REGISTRY.values()
        for dtype in dtypes
        for case in op.cases_of(Inputs(dtype, device="meta"))
        if fnmatch(f"{op.name}/{case.name}", pattern)
    ]
    if not wanted:
        raise ValueError(f"no case matches {pattern!r}; cases are named as in 'linear/bias'")
    rows: list[Row] = []
    with Progress(console=console, transient=True, disable=console is None) as progress:
        task = progress.add_task("ops", total=len(wanted))
        for op, case, dtype in wanted:
            progress.update(task, description=f"{op.name}/{case.name}")
            out = op.shapes_of(*case.arguments, **case.keywords)
            cost = op.cost_of(out, *case.arguments, **case.keywords)
            least = limits.seconds(cost, dtype)
            for name, seconds in _time(op, case.name, dtype, backends, clock, device).items():
                rows.append(Row(op.name, case.name, dtype, name, cost, seconds, least))
            progress.advance(task)
    return tuple(rows)


def _time(
    op: Op[..., Any],
    name: str,
    dtype: torch.dtype,
    backends: Sequence[str],
    clock: Clock,
    device: str,
) -> dict[str, float]:
    """Median seconds of one call by each backend that takes the case."""
    case = next(c for c in op.cases_of(Inputs(dtype)) if c.name == name)
    arguments, keywords = map_tensors(lambda x: x.to(device), (case.arguments, case.keywords))
    synchronize = torch.get_device_module(device).synchronize
    with torch.inference_mode():
        functions: dict[str, Callable[..., Any]] = {}
        for backend in backends:
            impl = op.implementation(backend, *arguments, **keywords)
            if backend == REFERENCE:
                functions[backend] = op.reference
            elif impl is not None:
                functions[backend] = impl.function

        def sample(function: Callable[..., Any], repeats: int) -> float:
            synchronize()
            start = clock.now()
            for _ in range(repeats):
                function(*arguments, **keywords)
            synchronize()
            return (clock.now() - start) / repeats

        repeats = {}
        for backend, function in functions.items():
            sample(function, 1)
            once = sample(function, 1)
            repeats[backend] = min(MOST_REPEATS, max(1, math.ceil(SAMPLE_SECONDS / once)))
        samples: dict[str, list[float]] = {backend: [] for backend in functions}
        for _ in range(SAMPLES):
            for backend, function in functions.items():
                samples[backend].append(sample(function, repeats[backend]))
    return {backend: median(found) for backend, found in samples.items()}


def table(rows: Sequence[Row]) -> Table:
    """The rows for people."""
    made = Table("op", "case", "dtype", "backend")
    for title in ("time", "GB/s", "GFLOP/s", "of limit"):
        made.add_column(title, justify="right")
    previous = None
    for row in rows:
        if previous not in (None, row.op):
            made.add_section()
        previous = row.op
        made.add_row(
            row.op,
            row.case,
            str(row.dtype).removeprefix("torch."),
            row.backend,
            duration(row.seconds),
            f"{row.bytes_per_second / 1e9:.2f}",
            f"{row.flops_per_second / 1e9:.2f}",
            f"{row.share:.0%}",
        )
    return made


def duration(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.2f} {unit}"
    return f"{seconds * 1e6:.1f} us"
