"""Layers with one latent a token: the engine's tokens are those of the naive loop, however requests
are split, cached or preempted, on one rank and on two.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pieria import ops
from pieria.engine.engine import Engine
from pieria.engine.messages import Add
from pieria.engine.ranks import prepare
from pieria.models.config import LatentConfig, LayerConfig, MlpConfig, ModelConfig, NormConfig, Rope
from pieria.models.decoder import Decoder
from pieria.parallel.mesh import Mesh
from tests.engine import test_ranks
from tests.engine.real import VOCABULARY, add, engine, fill, naive, run, tokens_of
from tests.models import tiny
from tests.models.test_families import read

NORM = NormConfig(1e-6)


def latents(q_rank: int | None) -> LatentConfig:
    rope = Rope(10000.0, 4, interleaved=True)
    return LatentConfig(4, q_rank, 12, 6, 8, rope, 0.4, NORM, bias=True)


def config() -> ModelConfig:
    layers = tuple(LayerConfig(latents(r), MlpConfig(40, "silu"), NORM) for r in (10, None, 7))
    return ModelConfig("tiny", 32, VOCABULARY, 512, layers, NORM, tied=False)


@pytest.fixture(scope="module", params=["reference", "torch"])
def model(request: pytest.FixtureRequest) -> Iterator[Decoder]:
    """The model, with each backend in turn."""
    ops.use(*([] if request.param == "reference" else [request.param]))
    yield fill(Decoder(config(), Mesh(), torch.float64))
    ops.use()


def prompt(length: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(VOCABULARY), k=length)


def check(model: Decoder, made: Engine, adds: list[Add]) -> None:
    for message in adds:
        made.add(message)
    news = run(made)
    for message in adds:
        assert tokens_of(news[message.id]) == naive(model, message), message.id


def test_prompts_split_over_many_steps(model: Decoder) -> None:
    made = engine(model, max_num_batched_tokens=7, max_num_seqs=4)
    check(model, made, [add(str(i), prompt(17 + 9 * i, i), 9) for i in range(5)])
    assert made.stats.split_prompts >= 4


def test_shared_beginnings(model: Decoder) -> None:
    made = engine(model)
    shared = prompt(40, 1)
    for round in range(2):
        adds = [add(f"{round}-{i}", shared[: 20 + i] + prompt(i, i), 8) for i in range(6)]
        check(model, made, adds)
    assert made.stats.prefix_hits > 100


def test_preemption(model: Decoder) -> None:
    made = engine(model, pages=26)
    check(model, made, [add(str(i), prompt(10 + i, i), 40, ignore_eos=True) for i in range(8)])
    assert made.stats.preemptions >= 5


def test_the_cache_is_one_array_a_layer(model: Decoder) -> None:
    caches = engine(model, pages=5, page_tokens=4).runner.caches  # type: ignore[attr-defined]
    assert [[tuple(array.shape) for array in layer] for layer in caches] == [[(5, 4, 16)]] * 3


@pytest.mark.dist
def test_two_ranks(tmp_path: Path) -> None:
    """Each rank has all latents, so the same bytes hold the same pages."""
    oracle = tiny.model(
        "DeepseekV3",
        torch.float64,
        num_key_value_heads=4,
        q_lora_rank=20,
        kv_lora_rank=24,
        qk_nope_head_dim=12,
        qk_rope_head_dim=8,
        v_head_dim=20,
        first_k_dense_replace=3,
        num_mtp_layers=0,
    )
    tiny.write_tokenizer(tiny.save(oracle, tmp_path))
    model = read(tmp_path, torch.float64)
    whole = prepare(test_ranks.settings(tmp_path))
    ranks = prepare(test_ranks.settings(tmp_path, tensor_parallel_size=2, threads=1))
    try:
        assert ranks.pages == whole.pages
        made = test_ranks.engine(ranks)
        check(
            model, made, [add(str(i), prompt(3 * i + 4, i), 8, ignore_eos=True) for i in range(5)]
        )
    finally:
        ranks.runner.close()
