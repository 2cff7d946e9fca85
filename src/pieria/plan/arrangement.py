"""How a model is spread over cards, and all ways of it.

Knows numbers of ranks. Does not know models or devices: whether a cut divides and fits, `placed`
finds out.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pieria.parallel.mesh import Mesh


@dataclass(frozen=True)
class Arrangement:
    """dp replicas, each over tp * pp ranks, and ep times as many where `is_wide` is False.

    ep: over how many ranks experts are divided. Not wide: those of one replica, which all else is
    repeated on, as the engine's mesh has it. Wide: tp * (ep / tp) ranks of as many replicas, which
    have requests of their own and step together.
    """

    tp: int = 1
    pp: int = 1
    ep: int = 1
    dp: int = 1
    is_wide: bool = False

    def __post_init__(self) -> None:
        for axis in ("tp", "pp", "ep", "dp"):
            if getattr(self, axis) < 1:
                raise ValueError(f"{axis}={getattr(self, axis)} must be at least 1")
        if self.is_wide and (self.ep % self.tp or (self.tp * self.dp) % self.ep):
            raise ValueError(
                f"ep={self.ep} over tp={self.tp} x dp={self.dp} ranks: experts are divided over"
                f" whole replicas; ep may be {', '.join(map(str, _wide_sizes(self.tp, self.dp)))}"
            )

    @property
    def mesh(self) -> Mesh:
        """Of one replica."""
        return Mesh(tp=self.tp, pp=self.pp, ep=1 if self.is_wide else self.ep)

    @property
    def together(self) -> int:
        """Replicas that share experts."""
        return self.ep // self.tp if self.is_wide else 1

    @property
    def replica_cards(self) -> int:
        return self.mesh.size

    @property
    def cards(self) -> int:
        return self.dp * self.replica_cards

    def __str__(self) -> str:
        sizes = {"TP": self.tp, "PP": self.pp, "DP": self.dp, "EP": self.ep}
        shown = [f"{name}{size}" for name, size in sizes.items() if size > 1]
        return " ".join(shown) or "1 card"


def arrangement(
    cards: int, tp: int | None, pp: int | None, ep: int | None, dp: int | None
) -> Arrangement:
    """The one that uses all `cards` with the sizes that are given.

    Without any, all cards are one replica cut by tp; what is left over else makes replicas. ep may
    divide the ranks of one replica or of all; see `Arrangement`. ValueError if cards are left.
    """
    if tp is pp is ep is dp is None:
        return Arrangement(tp=cards)
    for name, size in (("tp", tp), ("pp", pp), ("ep", ep), ("dp", dp)):
        if size is not None and size < 1:
            raise ValueError(f"{name}={size} must be at least 1")
    sizes = {"tp": tp or 1, "pp": pp or 1, "ep": ep or 1}
    inside = sizes["tp"] * sizes["pp"]
    for is_wide, replica in ((False, inside * sizes["ep"]), (True, inside)):
        count = dp if dp is not None else max(1, cards // replica)
        fits = count * replica == cards
        shared = not sizes["ep"] % sizes["tp"] and not (sizes["tp"] * count) % sizes["ep"]
        if fits and (not is_wide or shared):
            return Arrangement(**sizes, dp=count, is_wide=is_wide and sizes["ep"] > 1)
    asked = {**sizes, "dp": dp}
    shown = " x ".join(f"{k}={v}" for k, v in asked.items() if v is not None and v != 1) or "1 rank"
    works = ", ".join(map(str, list(arrangements(cards, has_experts=sizes["ep"] > 1))[:8]))
    raise ValueError(f"{shown} does not make {cards} cards; these do: {works}")


def arrangements(cards: int, *, has_experts: bool) -> Iterator[Arrangement]:
    """All that use all `cards`, by powers of two and what is left: fewest cards a replica first."""
    for replica in _divisors(cards):
        for pp in _divisors(replica):
            tp, dp = replica // pp, cards // replica
            yield Arrangement(tp=tp, pp=pp, dp=dp)
            if has_experts:
                for ep in _wide_sizes(tp, dp):
                    if ep > 1:
                        yield Arrangement(tp=tp, pp=pp, ep=ep, dp=dp, is_wide=True)


def _wide_sizes(tp: int, dp: int) -> list[int]:
    return [tp * part for part in _divisors(dp)]


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
