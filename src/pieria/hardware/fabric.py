"""What joins cards: links in a full mesh or through switches.

Knows bandwidths, delays and who adds up sums on the way; each number with its source. Does not know
collectives nor how long one takes.
"""

from dataclasses import dataclass

from pieria.hardware.spec import Fact, Link, Quantity


@dataclass(frozen=True)
class Fabric:
    """Cards joined by one kind of link.

    mesh: whether every card has ports to every other one, so that a smaller group reaches only a
    share of them; else they are joined by switches, and any card can use all of its ports towards
    any other.
    cards: the most that it joins; None: no limit is stated.
    hops: switches that a message between the farthest two cards passes; switch_latency: seconds in
    each. reduction: whether switches add up what passes them.
    """

    name: str
    mesh: Fact
    link: Link
    cards: Quantity | None
    hops: Quantity
    switch_latency: Quantity
    reduction: Fact

    def __post_init__(self) -> None:
        if self.switch_latency.unit != "s":
            raise ValueError(f"{self.name}: {self.switch_latency} must be given in s")
        if self.mesh and (self.cards is None or self.hops.value or self.reduction):
            raise ValueError(
                f"{self.name}: a mesh joins a given number of cards, without switches that are"
                " passed or that add up"
            )

    def joins(self, cards: int) -> bool:
        """Whether it reaches over this many."""
        return self.cards is None or cards <= self.cards.value

    def bandwidth(self, cards: int) -> Quantity:
        """Bytes/s one way out of each card of a group of this many, at most: what the wires carry.

        In a mesh of m cards a group of n has (n - 1) / (m - 1) of each card's ports.
        """
        assert cards > 1
        if not self.mesh or self.cards is None:
            return self.link.bandwidth
        peers = self.cards.value - 1
        if cards - 1 == peers:
            return self.link.bandwidth
        source = f"{cards - 1} of {peers:g} peers' ports; {self.link.bandwidth.source}"
        return self.link.bandwidth.times((cards - 1) / peers, "B/s", source)

    def payload(self, cards: int) -> Quantity:
        """Bytes/s one way of payload: `bandwidth` times the link's efficiency."""
        return self.bandwidth(cards).times(self.link.efficiency, "B/s")

    @property
    def latency(self) -> Quantity:
        """Seconds of a small message between the farthest cards: the link's, and every switch's."""
        if not self.hops.value:
            return self.link.latency
        return self.link.latency.plus(self.switch_latency.times(self.hops, "s"))
