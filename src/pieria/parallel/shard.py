"""The one shard rule: how a weight is cut over the ranks of a group.

Every weight of a model states its `Shard` once, where it is created; the loader, the runner and the
planner all read that statement. Knows logical shapes. Does not know files, formats or devices.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shard:
    """A cut of dimension `dim` over mesh axis `axis`, in units of `granularity` logical rows that
    stay together.

    kind: what the cut is called in messages. axis: None means that every rank holds the whole.
    """

    kind: str
    axis: str | None = None
    dim: int = 0
    granularity: int = 1

    def sizes(self, shape: tuple[int, ...]) -> list[int]:
        """The numbers of ranks over which a tensor of this shape can be cut."""
        if self.axis is None:
            return [1]
        units, rest = divmod(shape[self.dim], self.granularity)
        return [n for n in range(1, units + 1) if units % n == 0] if not rest else []

    def span(self, shape: tuple[int, ...], index: int, size: int) -> tuple[int, int]:
        """Rows [first, last) of dimension `dim` that rank `index` of `size` holds.

        ValueError if the cut does not divide, naming the sizes that do.
        """
        if self.axis is None:
            return 0, shape[self.dim] if shape else 1
        sizes = self.sizes(shape)
        if size not in sizes:
            unit = f" in groups of {self.granularity}" if self.granularity > 1 else ""
            raise ValueError(
                f"{shape[self.dim]} rows{unit} ({self.kind} cut, dimension {self.dim} of {shape}) do not divide"
                f" over {self.axis}={size}; sizes that work: {', '.join(map(str, sizes)) or 'none'}"
            )
        length = shape[self.dim] // size
        return index * length, (index + 1) * length

    def local(self, shape: tuple[int, ...], size: int) -> tuple[int, ...]:
        """The shape of one rank's part. ValueError as in `span`."""
        if self.axis is None:
            return shape
        first, last = self.span(shape, 0, size)
        return (*shape[: self.dim], last - first, *shape[self.dim + 1 :])


REPLICATED = Shard("replicated")


def column(granularity: int = 1) -> Shard:
    """Cut a [out, in] weight or an [out] bias by outputs; each rank computes some of them."""
    return Shard("column", "tp", 0, granularity)


def row(granularity: int = 1) -> Shard:
    """Cut a [out, in] weight by inputs; the ranks' products must be summed."""
    return Shard("row", "tp", 1, granularity)


def vocabulary() -> Shard:
    """Cut a [vocabulary, hidden] weight by tokens."""
    return Shard("vocabulary", "tp", 0)


def expert() -> Shard:
    """Cut an [experts, ...] weight by experts."""
    return Shard("expert", "ep", 0)
