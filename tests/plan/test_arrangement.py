"""Arrangements: which sizes make how many cards, and all of them."""

import pytest

from pieria.plan.arrangement import Arrangement, arrangement, arrangements


def test_all_cards_make_one_replica_unless_told_otherwise() -> None:
    assert arrangement(8, None, None, None, None) == Arrangement(tp=8)
    assert arrangement(8, 2, None, None, None) == Arrangement(tp=2, dp=4)
    assert arrangement(8, 2, 2, None, None) == Arrangement(tp=2, pp=2, dp=2)
    assert arrangement(8, None, None, None, 8) == Arrangement(dp=8)
    assert arrangement(6, 3, None, None, 2) == Arrangement(tp=3, dp=2)


def test_experts_are_divided_inside_a_replica_or_over_several() -> None:
    inside = arrangement(8, 2, None, 4, None)
    assert inside == Arrangement(tp=2, ep=4)
    assert (inside.cards, inside.together, inside.mesh.ep) == (8, 1, 4)
    over = arrangement(8, 2, None, 8, 4)
    assert over == Arrangement(tp=2, ep=8, dp=4, is_wide=True)
    assert (over.cards, over.replica_cards, over.together, over.mesh.ep) == (8, 2, 4, 1)
    whole = arrangement(8, 8, None, 8, 1)
    assert (whole.is_wide, whole.together) == (True, 1)


@pytest.mark.parametrize(
    ("cards", "sizes", "reason"),
    [
        (8, (3, None, None, None), "tp=3 does not make 8 cards; these do: DP8, TP2 DP4"),
        (8, (4, None, None, 4), "tp=4 x dp=4 does not make 8 cards"),
        (8, (2, 2, None, 1), "tp=2 x pp=2 does not make 8 cards"),
        (8, (2, None, 3, None), "tp=2 x ep=3 does not make 8 cards; these do: DP8, DP8 EP2"),
        (8, (0, None, None, None), "tp=0 must be at least 1"),
    ],
)
def test_what_does_not_make_the_cards_is_refused(
    cards: int, sizes: tuple[int | None, ...], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        arrangement(cards, *sizes)  # type: ignore[call-arg]


def test_sizes_are_checked() -> None:
    with pytest.raises(ValueError, match="dp=0 must be at least 1"):
        Arrangement(dp=0)
    with pytest.raises(ValueError, match="over whole replicas; ep may be 2, 4, 8"):
        Arrangement(tp=2, ep=3, dp=4, is_wide=True)


@pytest.mark.parametrize("cards", [1, 2, 6, 8, 12])
@pytest.mark.parametrize("has_experts", [False, True])
def test_all_ways_are_different_and_use_all_cards(cards: int, has_experts: bool) -> None:
    found = list(arrangements(cards, has_experts=has_experts))
    assert len(set(found)) == len(found)
    assert all(a.cards == cards for a in found)
    sizes = {(a.tp, a.pp, a.dp) for a in found}
    every = {
        (tp, pp, dp)
        for tp in range(1, cards + 1)
        for pp in range(1, cards + 1)
        for dp in range(1, cards + 1)
        if tp * pp * dp == cards
    }
    assert sizes == every
    wide = [a for a in found if a.ep > 1]
    assert bool(wide) == (has_experts and cards > 1)
    assert all(a.dp % a.together == 0 for a in wide)


def test_their_names() -> None:
    assert str(Arrangement()) == "1 card"
    assert str(Arrangement(tp=2, pp=2, dp=2)) == "TP2 PP2 DP2"
    assert str(Arrangement(ep=8, dp=8, is_wide=True)) == "DP8 EP8"
