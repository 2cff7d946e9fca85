"""Bytes and operations of a tiny model, against a count by hand."""

from pathlib import Path

import pytest

from benchmarks.peers.costs import Costs
from pieria.models.checkpoint import open_checkpoint
from tests.models import tiny

HIDDEN, INNER, LAYERS, HEADS, GROUPS, VOCABULARY = 64, 128, 3, 4, 2, 204
WIDTH = HIDDEN // HEADS
LINEAR = LAYERS * (2 * HIDDEN * HIDDEN + 2 * HIDDEN * GROUPS * WIDTH + 3 * HIDDEN * INNER)
NORMS = (2 * LAYERS + 1) * HIDDEN


@pytest.mark.parametrize("tied", [False, True])
def test_a_step_and_a_prompt(tied: bool, tmp_path: Path) -> None:
    tiny.save(tiny.model("Llama", tie_word_embeddings=tied), tmp_path)
    costs = Costs.of(open_checkpoint(tmp_path))
    cache = LAYERS * 2 * GROUPS * WIDTH * 2
    head = VOCABULARY * HIDDEN
    assert costs.decode_bytes(10) == 2 * (LINEAR + NORMS + head) + 10 * cache
    assert costs.cache_tokens(1000 * cache + 1) == 1000
    tokens = 100
    attention = LAYERS * 4 * HEADS * WIDTH * tokens * (tokens + 1) // 2
    found = costs.prompt_flops(tokens)
    assert found == pytest.approx(2 * LINEAR * tokens + attention + 2 * head, rel=0.02)


def test_fewer_bits_are_fewer_bytes(tmp_path: Path) -> None:
    """A byte for a weight and a float32 scale for an output; norms stay as they are."""
    tiny.save(tiny.model("Llama", tie_word_embeddings=False), tmp_path)
    costs = Costs.of(open_checkpoint(tmp_path), "int8")
    outputs = LAYERS * (3 * HIDDEN + 2 * GROUPS * WIDTH + 2 * INNER) + VOCABULARY
    wanted = LINEAR + VOCABULARY * HIDDEN + 4 * outputs + 2 * NORMS
    assert costs.decode_bytes(0) == wanted
