"""The calls of one step, alike ones together: what each computes and moves, and how much of the
least time that a device allows it reaches.

Knows explained steps and devices. Does not know how they are shown.
"""

from collections import Counter
from dataclasses import dataclass

from pieria.hardware.spec import DeviceSpec
from pieria.plan.predict import Explanation, Line
from pieria.plan.surfaces import Roof
from pieria.plan.work import Attention, Exchange, Experts, Latents, Product, Work


@dataclass(frozen=True)
class Calls:
    """`times` calls of one pipeline stage that are alike.

    seconds, flops, bytes: of each. peak: the dtype at whose rate it multiplies, or empty. least:
    seconds that the device's numbers allow it at least; None for an exchange, whose time is
    measured as a whole.
    """

    stage: int
    name: str
    shape: str
    times: int
    seconds: float
    flops: float
    bytes: float
    peak: str
    least: float | None
    source: str

    @property
    def all_seconds(self) -> float:
        return self.times * self.seconds

    @property
    def reached(self) -> float | None:
        """Share of the roofline."""
        return None if self.least is None or not self.seconds else self.least / self.seconds

    @property
    def intensity(self) -> float:
        """Flops for each byte."""
        return self.flops / self.bytes if self.bytes else 0.0


def calls(explanation: Explanation, device: DeviceSpec) -> tuple[Calls, ...]:
    """In the order in which they first occur."""
    roof = Roof(device)
    found: Counter[tuple[Line, str]] = Counter()
    for line in explanation.lines:
        found[line, shape(line.work)] += 1
    return tuple(
        Calls(
            line.stage,
            line.work.op,
            of,
            times,
            line.seconds,
            line.flops,
            line.bytes,
            line.peak,
            _least(line, roof),
            line.source,
        )
        for (line, of), times in found.items()
    )


def _least(line: Line, roof: Roof) -> float | None:
    if isinstance(line.work, Exchange):
        return None
    if line.peak:
        return float(roof.seconds(line.flops, line.bytes, line.peak))
    return line.bytes / roof.bandwidth


def shape(work: Work) -> str:
    """What tells a call from others of its name."""
    if isinstance(work, Product):
        parts = f"{work.parts} x " if work.parts > 1 else ""
        return f"{work.rows:g} rows, {parts}{work.inner} to {work.outer}"
    if isinstance(work, Experts):
        return f"{work.tokens:g} tokens, {work.top} of {work.total}, here {work.here}"
    if isinstance(work, Attention):
        window = f", window {work.window}" if work.window else ""
        return f"{len(work.queries)} requests, {work.heads} over {work.groups} heads{window}"
    if isinstance(work, Latents):
        return f"{len(work.queries)} requests, {work.heads} heads over {work.size}"
    if isinstance(work, Exchange):
        return f"{work.bytes / 1024:.4g} KiB over {work.ranks} ranks"
    return f"{work.bytes / 1024:.4g} KiB"
