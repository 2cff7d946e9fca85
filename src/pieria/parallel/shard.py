"""The one shard rule: how a weight is cut over the ranks of a mesh.

Every weight of a model states its `Shard` once, where it is created; the loader, the runner and the
planner all read that statement. Knows logical shapes. Does not know files, formats or devices.
"""

from dataclasses import dataclass
from math import isqrt

from pieria.parallel.mesh import Mesh

Span = tuple[int, int]
"""Rows [first, last)."""


@dataclass(frozen=True)
class Cut:
    """Dimension `dim` over mesh axis `axis`, in units of `granularity` rows that stay together."""

    axis: str
    dim: int
    granularity: int = 1

    def sizes(self, shape: tuple[int, ...]) -> list[int]:
        """The numbers of ranks over which a tensor of this shape can be cut."""
        units, rest = divmod(shape[self.dim], self.granularity)
        low = [n for n in range(1, isqrt(units) + 1) if units % n == 0] if not rest else []
        return sorted({*low, *(units // n for n in low)})


@dataclass(frozen=True)
class Shard:
    """Cuts of different dimensions; none leaves the whole on every rank. kind: for messages."""

    kind: str
    cuts: tuple[Cut, ...] = ()

    def cut(self, axis: str) -> Cut | None:
        """The cut over this axis, if there is one."""
        return next((c for c in self.cuts if c.axis == axis), None)

    def spans(self, shape: tuple[int, ...], mesh: Mesh) -> tuple[Span, ...]:
        """What this rank holds of each dimension.

        ValueError if a cut does not divide, naming the sizes that do.
        """
        spans = [(0, length) for length in shape]
        for cut in self.cuts:
            group = mesh.group(cut.axis)
            if shape[cut.dim] % (cut.granularity * group.size):
                sizes = cut.sizes(shape)
                unit = f" in groups of {cut.granularity}" if cut.granularity > 1 else ""
                raise ValueError(
                    f"{shape[cut.dim]} rows{unit} ({self.kind} cut, dimension {cut.dim} of {shape})"
                    f" do not divide over {cut.axis}={group.size};"
                    f" sizes that work: {', '.join(map(str, sizes)) or 'none'}"
                )
            length = shape[cut.dim] // group.size
            spans[cut.dim] = group.index * length, (group.index + 1) * length
        return tuple(spans)

    def local(self, shape: tuple[int, ...], mesh: Mesh) -> tuple[int, ...]:
        """The shape of this rank's part. ValueError as in `spans`."""
        return tuple(last - first for first, last in self.spans(shape, mesh))


REPLICATED = Shard("replicated")


def column(granularity: int = 1) -> Shard:
    """Cut a [out, in] weight or an [out] bias by outputs; each rank computes some of them."""
    return Shard("column", (Cut("tp", 0, granularity),))


def row(granularity: int = 1) -> Shard:
    """Cut a [out, in] weight by inputs; the ranks' products must be summed."""
    return Shard("row", (Cut("tp", 1, granularity),))


def vocabulary() -> Shard:
    """Cut a [vocabulary, hidden] weight by tokens."""
    return Shard("vocabulary", (Cut("tp", 0),))


def expert(dim: int | None = None) -> Shard:
    """Cut an [experts, ...] weight by experts, and its dimension `dim`, if given, over tp."""
    return Shard("expert", (Cut("ep", 0), *(() if dim is None else (Cut("tp", dim),))))
