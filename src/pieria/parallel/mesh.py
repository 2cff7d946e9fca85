"""How ranks are arranged: data, pipeline, context, tensor and expert parallel groups.

Knows ranks and their groups. Does not know tensors or models, nor who starts the processes.
"""

from dataclasses import dataclass, field, replace
from typing import Any

AXES = ("dp", "pp", "cp", "ep", "tp")
"""Outermost first: neighbouring ranks differ in tp."""


@dataclass(frozen=True)
class Group:
    """The ranks that share work along one axis, as one of them sees it.

    ranks: global ranks in order; index: this rank's place among them.
    handle: the torch.distributed process group; None for a group that has not been connected or has
    one rank.
    """

    axis: str
    ranks: tuple[int, ...] = (0,)
    index: int = 0
    handle: Any = field(default=None, compare=False)

    @property
    def size(self) -> int:
        return len(self.ranks)


@dataclass(frozen=True)
class Mesh:
    """A grid of dp x pp x cp x ep x tp ranks as `rank` sees it.

    Along ep only experts are cut; all else is computed by each of its ranks alike.
    """

    dp: int = 1
    pp: int = 1
    cp: int = 1
    tp: int = 1
    ep: int = 1
    rank: int = 0
    handles: tuple[tuple[str, Any], ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        for axis in AXES:
            if getattr(self, axis) < 1:
                raise ValueError(f"mesh size {axis}={getattr(self, axis)} must be at least 1")
        if not 0 <= self.rank < self.size:
            raise ValueError(f"rank {self.rank} is outside of a mesh of {self.size} ranks")

    @property
    def size(self) -> int:
        return self.dp * self.pp * self.cp * self.ep * self.tp

    def ranks(self, axis: str) -> tuple[int, ...]:
        """The global ranks of this rank's group along `axis`, in order."""
        here = {**self._place(self.rank), axis: None}
        return tuple(r for r in range(self.size) if {**self._place(r), axis: None} == here)

    def group(self, axis: str) -> Group:
        ranks = self.ranks(axis)
        return Group(axis, ranks, ranks.index(self.rank), dict(self.handles).get(axis))

    @property
    def world(self) -> Group:
        """All ranks."""
        return Group("world", tuple(range(self.size)), self.rank, dict(self.handles).get("world"))

    def stage(self, layers: int, index: int | None = None) -> range:
        """Which of a model's layers pipeline stage `index` computes, default this rank's.

        Stages differ by one layer at most; the first ones have more.
        """
        at = self.group("pp").index if index is None else index
        fewest, more = divmod(layers, self.pp)
        first = at * fewest + min(at, more)
        return range(first, first + fewest + (at < more))

    def connect(self) -> "Mesh":
        """The same mesh with torch.distributed process groups; every rank of the mesh must call it.

        Needs torch.distributed initialised with a world of `size` ranks.
        """
        import torch.distributed as dist

        handles: list[tuple[str, Any]] = [("world", dist.group.WORLD)]
        for axis in AXES:
            for ranks in sorted({replace(self, rank=r).ranks(axis) for r in range(self.size)}):
                if len(ranks) > 1:
                    handle = dist.new_group(list(ranks))
                    if self.rank in ranks:
                        handles.append((axis, handle))
        return replace(self, handles=tuple(handles))

    def _place(self, rank: int) -> dict[str, int]:
        place = {}
        for axis in reversed(AXES):
            rank, place[axis] = divmod(rank, getattr(self, axis))
        return place
