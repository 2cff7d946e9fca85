"""Claims and the rates beside them."""

import json
from dataclasses import asdict, replace

import pytest

from pieria.plan import claims
from pieria.plan.claims import Claim, Claims, Condition, Scene
from pieria.plan.show_claims import tables

SMALL = Scene("Qwen3 0.6B", "qwen3-0.6b", "fp8", "prefill", 1, 4096, 1024)


def test_rate_is_given_per_card_peak_and_watt() -> None:
    found = claims.rate(SMALL, "mtt-s5000")
    assert found.tokens_per_second and found.per_petaflops and found.per_watt
    assert found.per_petaflops == pytest.approx(found.tokens_per_second / 1.0)
    assert found.per_watt == pytest.approx(found.tokens_per_second / 1200)
    assert found.low and found.high and found.low < found.tokens_per_second < found.high


def test_only_the_subject_has_a_band() -> None:
    found = claims.rate(SMALL, "h100")
    assert (found.low, found.high) == (None, None)
    assert found.per_petaflops == pytest.approx((found.tokens_per_second or 0) / 1.9789)


def test_card_without_fp8_says_so() -> None:
    assert "int8" in claims.rate(SMALL, "ascend-910c").note


def test_memory_bounds_requests() -> None:
    scene = Scene("Qwen3 32B", "qwen3-32b", "fp8", "decode", 1, 4000, 8192)
    found = claims.rate(scene, "h100")
    assert "memory for" in found.note and found.tokens_per_second
    large = replace(scene, model="llama-3.1-405b")
    found = claims.rate(large, "h100")
    assert found.tokens_per_second is None and "weights do not fit" in found.note


def test_result_is_json_and_tables() -> None:
    rate = claims.rate(SMALL, "h100")
    claim = Claim("x", 2.5, "times", "press", "so", 2.0, (Condition("if", 3.0, True),))
    found = Claims((rate,), (claim,))
    assert not claim.met
    back = json.loads(json.dumps(asdict(found)))
    assert back["claims"][0]["conditions"] == [{"what": "if", "predicted": 3.0, "met": True}]
    assert [table.row_count for table in tables(found)] == [1, 2]


def test_every_claim_is_there() -> None:
    assert len(claims.SAID) == 3
    models = {scene.title.partition(",")[0] for scene in claims.SCENES}
    assert models == {"DeepSeek 671B", "Jiutian 35B", "Qwen3 32B"}
