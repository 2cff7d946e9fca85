"""Pools at full load."""

from dataclasses import replace

import pytest

from pieria.hardware import catalog
from pieria.hardware.spec import Fact
from pieria.models.keys import Keys
from pieria.models.registry import model_config
from pieria.plan import steady
from pieria.plan.precision import PRECISIONS
from pieria.plan.presets import preset
from pieria.plan.routing import SKEWED
from pieria.plan.steady import WIDE, Pool

CONFIG = {**preset("deepseek-v3").config, "num_hidden_layers": 6}
POOL = Pool(
    model_config(Keys(CONFIG, "short")),
    catalog.cluster("h100"),
    PRECISIONS["fp8_block"],
    WIDE,
    16,
)


def test_rates_are_steps_turned_round() -> None:
    assert steady.answers(POOL, 64, 1000) == pytest.approx(64 / steady.step(POOL, 64, 1000))
    both = replace(POOL, tp=2)
    assert steady.answers(both, 64, 1000) == pytest.approx(32 / steady.step(both, 64, 1000))


def test_longer_prompts_and_skewed_experts_are_slower() -> None:
    base = steady.prompts(POOL, 8192, 1024)
    assert steady.prompts(POOL, 8192, 8192) < base
    assert steady.prompts(replace(POOL, routing=SKEWED), 8192, 1024) < base
    assert steady.prompts(replace(POOL, practice=replace(WIDE, overlap=0.0)), 8192, 1024) < base


def test_exchanges_beside_computing_take_multiprocessors_unless_links_have_engines() -> None:
    """H100's links have none. Few tokens are exchanged by kernels that occupy none."""
    free = replace(POOL, practice=replace(WIDE, exchange_units=0.0))
    assert steady.prompts(POOL, 8192, 1024) < steady.prompts(free, 8192, 1024)
    assert steady.answers(POOL, 256, 1024) == steady.answers(free, 256, 1024)
    assert steady.answers(POOL, 257, 1024) < steady.answers(free, 257, 1024)
    cluster = POOL.cluster
    tiers = tuple(
        replace(tier, link=replace(tier.link, copy_engines=Fact(True, "test")))
        for tier in cluster.tiers
    )
    # Sixteen cards need both tiers.
    for engines, expected in ((tiers[:1], POOL), (tiers, free)):
        mixed = replace(cluster, tiers=(*engines, *cluster.tiers[len(engines) :]))
        found = steady.prompts(replace(POOL, cluster=mixed), 8192, 1024)
        assert found == pytest.approx(steady.prompts(expected, 8192, 1024))


def test_room_shrinks_with_context_and_ends() -> None:
    assert steady.room(POOL, 1000) > steady.room(POOL, 8000) > 0
    whole = Pool(preset("deepseek-v3").model(), POOL.cluster, POOL.precision, WIDE, 8)
    assert steady.room(whole, 1000) == 0


def test_cards_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match="16 cards are not groups of 3"):
        steady.answers(replace(POOL, tp=3), 8, 100)
