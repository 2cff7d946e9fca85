"""Models on cards: what they weigh, what is left, and what would work where they do not fit."""

from dataclasses import replace

import pytest

from pieria.engine.scheduler import SchedulerConfig
from pieria.hardware import catalog
from pieria.plan import presets
from pieria.plan.arrangement import Arrangement
from pieria.plan.placed import Subject, placed, what_fits
from pieria.plan.precision import PRECISIONS

LIMITS = SchedulerConfig(256, 8192)
FP8, BF16 = PRECISIONS["fp8"], PRECISIONS["bfloat16"]


def subject(model: str, device: str = "mtt-s5000") -> Subject:
    return Subject(model, presets.model(model), catalog.cluster(device))


def test_llama_on_one_card() -> None:
    """8.03 billion parameters; 32 layers of 8 key heads of 128 numbers in two bytes."""
    found = placed(subject("llama-3-8b"), Arrangement(), BF16, LIMITS)
    (use,) = found.memory
    assert use.weights == pytest.approx(2 * 8.03e9, rel=0.001)
    assert found.token_bytes == 2 * 32 * 8 * 128 * 2
    assert use.cache == found.replica.tokens * found.token_bytes
    whole = use.weights + use.activations + use.buffers + use.cache + use.free + use.reserved
    memory = found.subject.cluster.device.memory.value
    assert whole == pytest.approx(memory, rel=1e-6)
    assert use.reserved == pytest.approx(0.1 * memory, rel=1e-6)
    assert found.pool("all").count == 1


def test_cuts_divide_weights_and_keys() -> None:
    one = placed(subject("llama-3-8b"), Arrangement(), BF16, LIMITS)
    eight = placed(subject("llama-3-8b"), Arrangement(tp=8), BF16, LIMITS)
    staged = placed(subject("llama-3-8b"), Arrangement(pp=2, dp=4), BF16, LIMITS)
    assert eight.memory[0].weights == pytest.approx(one.memory[0].weights / 8, rel=0.01)
    assert eight.token_bytes == staged.token_bytes == one.token_bytes
    assert eight.replica.tokens > 8 * one.replica.tokens
    assert len(staged.memory) == 2
    assert sum(use.weights for use in staged.memory) == pytest.approx(one.memory[0].weights)
    assert (staged.pool("all").count, staged.pool("all").together) == (4, 1)


def test_latents_are_small_and_on_every_rank() -> None:
    """61 layers of 512 + 64 numbers in two bytes, which tensor parallel ranks all keep."""
    found = placed(subject("deepseek-v3"), Arrangement(tp=8, pp=2), FP8, LIMITS)
    assert found.token_bytes == 61 * (512 + 64) * 2 * 8
    assert found.subject.has_experts


def test_the_limits_of_steps_may_change() -> None:
    found = placed(subject("llama-3-8b"), Arrangement(tp=8), FP8, LIMITS)
    other = found.with_limits(SchedulerConfig(8, 2048))
    assert other.predictor is found.predictor
    assert other.replica.scheduler.max_num_seqs == 8


def test_shorter_requests_and_smaller_shares() -> None:
    usual = subject("llama-3-8b")
    short = placed(replace(usual, max_model_len=4096), Arrangement(), FP8, LIMITS)
    assert short.replica.max_model_len == 4096
    half = placed(replace(usual, cache_fraction=0.5), Arrangement(), FP8, LIMITS)
    whole = placed(usual, Arrangement(), FP8, LIMITS)
    assert half.replica.pages == pytest.approx(whole.replica.pages / 2, abs=1)
    given = placed(replace(usual, cache_bytes=10 * 2**30), Arrangement(), FP8, LIMITS)
    assert given.replica.pages == 10 * 2**30 // (64 * given.token_bytes)


def test_what_does_not_divide_says_what_does() -> None:
    with pytest.raises(ValueError) as refused:
        placed(subject("llama-3-8b"), Arrangement(tp=3), FP8, LIMITS)
    text = str(refused.value)
    assert "llama-3-8b as TP3" in text
    assert "do not divide over tp=3; sizes that work: 1, 2, 4" in text


def test_what_does_not_fit_says_what_would() -> None:
    usual = subject("llama-3-70b", "rtx-4090")
    with pytest.raises(ValueError) as refused:
        placed(usual, Arrangement(tp=2), BF16, LIMITS)
    assert "llama-3-70b in bfloat16 as TP2 does not fit" in str(refused.value)
    works = what_fits(usual, 2, BF16, LIMITS)
    assert works.endswith("on 8 cards")
    for part in works.split(", "):
        spread = part.split(" on ")[0].split(" in ")[0]
        sizes = {name[:2].lower(): int(name[2:]) for name in spread.split()}
        form = FP8 if "fp8" in part else PRECISIONS["int4"] if "int4" in part else BF16
        placed(usual, Arrangement(**sizes), form, LIMITS)
