"""Many cards of one kind, and what joins them tier by tier.

Knows what a node, a super-node or a cluster is made of; `hardware.catalog` has those with a name.
"""

from dataclasses import dataclass

from pieria.hardware.fabric import Fabric
from pieria.hardware.spec import DeviceSpec, Quantity


@dataclass(frozen=True)
class ClusterSpec:
    """Cards in tiers: a node or super-node within, what joins those without.

    cards: how many one of them has: of a node, a cabinet, a super-node; outer tiers may join more.
    node_cards: how many share a host (its processors, memory, and network cards).
    tiers: innermost first, each joining more cards than the one before.
    power: W of those `cards` with their hosts, switches, and what cools them inside.
    """

    name: str
    device: DeviceSpec
    cards: Quantity
    node_cards: Quantity
    tiers: tuple[Fabric, ...]
    power: Quantity | None = None

    def __post_init__(self) -> None:
        if not self.tiers:
            raise ValueError(f"{self.name} has no tier")
        for inner, outer in zip(self.tiers, self.tiers[1:], strict=False):
            if inner.cards is None or (
                outer.cards is not None and outer.cards.value <= inner.cards.value
            ):
                raise ValueError(f"{self.name}: {outer.name} must join more than {inner.name}")

    def fabric(self, cards: int, within: int | None = None) -> Fabric:
        """The innermost tier that joins a group of this many.

        within: how many consecutive cards the group is spread over, such as 16 for every eighth of
        sixteen; default: the group stands side by side. ValueError if nothing reaches that far.
        """
        spread = within or cards
        for tier in self.tiers:
            if tier.joins(spread):
                return tier
        most = self.tiers[-1].cards
        assert most is not None
        raise ValueError(f"{spread} cards are more than the {most.value:g} that {self.name} joins")

    @property
    def card_power(self) -> Quantity | None:
        """W for each card with its share of host, switches and cooling."""
        if self.power is None:
            return None
        return self.power.times(1 / self.cards.value, "W", f"{self.power.source}; a card's share")
