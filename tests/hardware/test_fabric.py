"""What a group of cards gets of a mesh and of switches."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pieria.hardware.spec import Quantity
from tests.hardware.fabrics import LINK, MESH, SWITCHED, YES


@pytest.mark.parametrize(("cards", "gigabytes"), [(2, 56), (4, 168), (8, 392)])
def test_a_group_in_a_mesh_has_its_peers_ports(cards: int, gigabytes: float) -> None:
    found = MESH.bandwidth(cards)
    assert found.value == pytest.approx(gigabytes * 1e9)
    assert MESH.payload(cards).value == pytest.approx(gigabytes * 0.5e9)
    assert MESH.payload(cards).bounds == pytest.approx((gigabytes * 0.25e9, gigabytes * 0.75e9))
    assert MESH.payload(cards).inferred and not found.inferred


@given(st.integers(2, 10_000))
def test_any_group_on_switches_has_all_ports(cards: int) -> None:
    assert SWITCHED.bandwidth(cards) == LINK.bandwidth


def test_latency_is_the_links_and_each_switchs() -> None:
    assert MESH.latency == LINK.latency
    assert SWITCHED.latency.value == pytest.approx(1.1e-6)
    assert SWITCHED.latency.bounds == pytest.approx((0.6e-6, 2.0e-6))


def test_what_it_joins() -> None:
    assert MESH.joins(8) and not MESH.joins(9)
    assert SWITCHED.joins(100_000)


@pytest.mark.parametrize(
    "wrong",
    [
        {"cards": None},
        {"hops": Quantity(1, "", "a test")},
        {"reduction": YES},
        {"switch_latency": Quantity(0, "", "a test")},
    ],
)
def test_a_mesh_with_switches_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="mesh: "):
        replace(MESH, **wrong)
