"""The numbers that a result rests on, each with its bounds and source.

Knows what is placed and how it is run. Does not know results.
"""

from dataclasses import dataclass

from pieria.hardware.listing import Row, cluster_rows, device_rows
from pieria.hardware.spec import Quantity
from pieria.plan.placed import Subject


@dataclass(frozen=True)
class Assumption:
    """A number behind the result. value, low, high: with units, as text; low and high may be empty.

    low_share, high_share: of the value, where it has bounds. inferred: nobody measured or published
    it.
    """

    what: str
    value: str
    low: str
    high: str
    inferred: bool
    source: str
    low_share: float | None = None
    high_share: float | None = None


def assumptions(subject: Subject) -> tuple[Assumption, ...]:
    """Every number that the result rests on: of the device and what joins it, and ours."""
    cluster, practice = subject.cluster, subject.practice
    rows = [*device_rows(cluster.device), *cluster_rows(cluster)]
    front = f"{practice.front_seconds * 1e3:g} ms and {practice.front_token * 1e6:g} us a token"
    return (
        *(_of(row) for row in rows),
        _ours(
            "memory that the engine may use",
            f"{subject.memory_fraction:g}",
            "of each card's; the rest is the driver's and others', as vLLM has it",
        ),
        Assumption(
            "tokens in a page",
            str(subject.page_tokens),
            "",
            "",
            False,
            "asked for, or what paged kernels want (FlashMLA and others: 64)",
        ),
        _ours("between users and the engine", front, f"as of {practice.name}; see docs/PLAN.md"),
        _ours(
            "routing of tokens to experts",
            subject.routing.name,
            "real routing is known only when the weights are there",
        ),
    )


def _of(row: Row) -> Assumption:
    label, value, low, high, _, source = row.cells()
    shares: tuple[float | None, float | None] = (None, None)
    if isinstance(row.what, Quantity) and row.what.low is not None and row.what.value:
        below, above = row.what.bounds
        shares = below / row.what.value, above / row.what.value
    return Assumption(label, value, low, high, row.what.inferred, source, *shares)


def _ours(what: str, value: str, source: str) -> Assumption:
    return Assumption(what, value, "", "", True, source)
