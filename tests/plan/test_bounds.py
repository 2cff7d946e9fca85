"""Specs at the bounds of their numbers."""

from pieria.hardware import catalog
from pieria.plan.bounds import at


def test_every_number_goes_to_its_side() -> None:
    usual = catalog.cluster("mtt-s5000")
    worst, best = at(usual, "worst"), at(usual, "best")
    link = usual.tiers[0].link
    assert link.efficiency.low is not None
    assert worst.tiers[0].link.efficiency.value == link.efficiency.low
    assert best.tiers[0].link.efficiency.value == link.efficiency.high
    assert worst.tiers[0].link.latency.value == link.latency.high
    assert best.tiers[0].link.latency.value == link.latency.low
    peak = usual.device.flops["float8"]
    assert worst.device.flops["float8"].value == peak.low == 899e12
    assert best.device.flops["float8"].value == peak.high == 1024e12
    assert (worst.device.gap, best.device.gap) != (usual.device.gap, usual.device.gap)


def test_what_has_no_bounds_and_what_is_no_speed_stays() -> None:
    usual = catalog.cluster("mtt-s5000")
    worst = at(usual, "worst")
    assert worst.device.memory == usual.device.memory
    assert worst.device.power == usual.device.power
    assert worst.cards == usual.cards
    assert worst.tiers[0].mesh == usual.tiers[0].mesh
    assert at(at(usual, "best"), "worst") == worst
