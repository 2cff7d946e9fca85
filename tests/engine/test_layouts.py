"""Models of several families over several processes: greedy tokens are those of one process."""

from dataclasses import asdict
from typing import Any

import pytest
import torch

from pieria.engine.engine import Engine
from pieria.engine.prefix_cache import PrefixCache
from pieria.engine.process import Prepared
from pieria.engine.ranks import prepare
from pieria.engine.runner_config import RunnerConfig
from pieria.engine.scheduler import Scheduler, SchedulerConfig
from tests.engine.real import STOP, add, naive, run, tokens_of
from tests.models import tiny
from tests.models.test_families import read

pytestmark = pytest.mark.dist

SCHEDULING = SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=16)
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 40}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("Llama", {}),
    "Gemma 3": ("Gemma3", {"head_dim": 16, "sliding_window": 7, "num_hidden_layers": 7}),
    "DeepSeek-V3": (
        "DeepseekV3",
        {
            "q_lora_rank": 24,
            "kv_lora_rank": 32,
            "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 8,
            "v_head_dim": 16,
            "num_key_value_heads": 4,
            "first_k_dense_replace": 1,
            "n_routed_experts": 8,
            "num_experts_per_tok": 3,
            "n_group": 4,
            "topk_group": 2,
            "moe_intermediate_size": 40,
        },
    ),
    "Qwen3-MoE": ("Qwen3Moe", {**EXPERTS, "norm_topk_prob": True, "head_dim": 24}),
    "Qwen3-Next": (
        "Qwen3Next",
        {
            **EXPERTS,
            "shared_expert_intermediate_size": 40,
            "head_dim": 16,
            "num_hidden_layers": 4,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
        },
    ),
}
LAYOUTS = {
    "TP=2": {"tensor_parallel_size": 2},
    "EP=2": {"expert_parallel_size": 2},
    "TP=2 x EP=2": {"tensor_parallel_size": 2, "expert_parallel_size": 2},
    "PP=2": {"pipeline_parallel_size": 2},
}
DENSE = ("Llama", "Gemma 3")


def engine(prepared: Prepared) -> Engine:
    cache = PrefixCache(
        prepared.pages, prepared.page_tokens, True, prepared.windows, prepared.states
    )
    scheduler = Scheduler(SCHEDULING, cache, frozenset({STOP}), prepared.max_model_len)
    return Engine(scheduler, prepared.runner)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model in files, requests, and the tokens that one process gives them."""
    kind, config = FAMILIES[request.param]
    folder = tmp_path_factory.mktemp("model")
    tiny.write_tokenizer(tiny.save(tiny.model(kind, torch.float64, **config), folder))
    adds = [add(str(i), list(range(i, 4 * i + 9)), 8, ignore_eos=True) for i in range(5)]
    model = read(folder, torch.float64)
    return request.param, folder, adds, {m.id: naive(model, m) for m in adds}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tokens_are_those_of_one_process(family: Any, layout: str) -> None:
    name, folder, adds, wanted = family
    if "EP" in layout and name in DENSE:
        pytest.skip("a model without experts")
    config = RunnerConfig(
        str(folder),
        dtype="float64",
        device="cpu",
        kv_cache_memory_bytes=8 << 20,
        threads=1,
        **LAYOUTS[layout],
    )
    prepared = prepare({"runner": asdict(config), "scheduler": asdict(SCHEDULING)})
    try:
        made = engine(prepared)
        for message in adds:
            made.add(message)
        news = run(made)
    finally:
        prepared.runner.close()
    assert {id: tokens_of(outputs) for id, outputs in news.items()} == wanted
