"""Which tier a group of cards talks over, and what a card's share of the power is."""

from dataclasses import replace

import pytest

from pieria.hardware.cluster import ClusterSpec
from pieria.hardware.spec import DeviceSpec, Quantity
from tests.hardware.fabrics import MESH, SWITCHED

BOUNDED = replace(SWITCHED, name="pod", cards=Quantity(64, "", "a test"))
CLUSTER = ClusterSpec(
    "pod of eights",
    DeviceSpec("Some GPU", "Somebody", Quantity(2**30, "B", "a test"), frozenset()),
    cards=Quantity(8, "", "a test"),
    node_cards=Quantity(8, "", "a test"),
    tiers=(MESH, BOUNDED),
    power=Quantity(8000, "W", "a guess", 4000, 12000, inferred=True),
)


@pytest.mark.parametrize(
    ("cards", "within", "name"),
    [(2, None, "mesh"), (8, None, "mesh"), (9, None, "pod"), (2, 16, "pod"), (2, 8, "mesh")],
)
def test_the_innermost_tier_that_reaches(cards: int, within: int | None, name: str) -> None:
    assert CLUSTER.fabric(cards, within).name == name


def test_more_cards_than_it_joins() -> None:
    with pytest.raises(ValueError, match="65 cards are more than the 64 that pod of eights joins"):
        CLUSTER.fabric(65)
    assert replace(CLUSTER, tiers=(MESH, SWITCHED)).fabric(65).name == "switched"


def test_a_cards_share_of_the_power() -> None:
    found = CLUSTER.card_power
    assert found is not None
    assert (found.value, *found.bounds, found.inferred) == (1000, 500, 1500, True)
    assert replace(CLUSTER, power=None).card_power is None


@pytest.mark.parametrize("tiers", [(), (BOUNDED, MESH), (SWITCHED, MESH), (MESH, MESH)])
def test_tiers_grow_outwards(tiers: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match="pod of eights"):
        replace(CLUSTER, tiers=tiers)
