"""Specs at the bounds of their numbers."""

import numpy as np
import pytest

from pieria.hardware import catalog
from pieria.plan.bounds import at
from pieria.plan.surfaces import SYSTEMS, Surfaces


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


def test_a_device_whose_calls_were_not_measured_says_what_they_reach() -> None:
    for name in catalog.device_names():
        stated = catalog.device(name).utilisation
        assert (stated is None) == (name in SYSTEMS), name
        if stated is not None:
            assert stated.inferred and stated.bounds[0] < stated.value < stated.bounds[1]


def test_what_calls_reach_has_bounds_and_none_is_above_the_roof() -> None:
    device = catalog.device("mtt-s5000")
    usual, worst, best = map(Surfaces, (device, at(device, "worst"), at(device, "best")))
    h100 = Surfaces(catalog.device("h100"))
    shape = 4096.0, 4096.0, 4096.0
    measured = float(h100.product("bfloat16")(*shape))
    assert float(usual.product("bfloat16")(*shape)) == measured
    assert float(worst.product("bfloat16")(*shape)) == pytest.approx(0.77 * measured)
    assert float(best.product("bfloat16")(*shape)) == pytest.approx(min(1.0, 1.2 * measured))
    high, known = best.product("bfloat16").logs, h100.product("bfloat16").logs
    assert (high <= np.maximum(known, 0.0) + 1e-12).all()
    assert any("0.77 to 1.2" in note for note in usual.notes) and not h100.notes
    # What surrounds latents was measured on an H100, and is taken off as it was there.
    assert float(worst.latents("generation", 16, "fp8", 2)(8, 4096)) == pytest.approx(
        0.77 * float(h100.latents("generation", 16, "fp8", 2)(8, 4096))
    )
