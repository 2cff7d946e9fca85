"""Every family through the engine: however requests are batched, split, cached and preempted, their
tokens are those of the naive loop.

A family is a line of `FAMILIES`: what its config.json would say, made small.
"""

import random
from typing import Any

import pytest
import torch

from pieria import ops
from pieria.models.decoder import Decoder
from pieria.models.jiutian_35b import CONFIGS, tiny
from pieria.models.keys import Keys
from pieria.models.registry import model_config
from pieria.parallel.mesh import Mesh
from tests.engine.real import VOCABULARY, add, engine, fill, naive, run, tokens_of

SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
}
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
DELTA = {
    "num_hidden_layers": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 6,
    "shared_expert_intermediate_size": 16,
}
WINDOWS = {"use_sliding_window": True, "sliding_window": 7}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
LATENTS = {
    "num_key_value_heads": 4,
    "q_lora_rank": 12,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "first_k_dense_replace": 1,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 24,
    "n_group": 4,
    "topk_group": 2,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Qwen2": {**WINDOWS, "max_window_layers": 1},
    "DeepseekV2": {
        **LATENTS,
        "q_lora_rank": None,
        "topk_method": "group_limited_greedy",
        "routed_scaling_factor": 1.7,
        "rope_scaling": {**YARN, "mscale": 0.7, "mscale_all_dim": 0.7},
    },
    "DeepseekV3": LATENTS,
    "Mistral": {"sliding_window": 15},
    "Mixtral": {"num_local_experts": 5, "num_experts_per_tok": 2},
    "Qwen2Moe": {**EXPERTS, "shared_expert_intermediate_size": 16},
    "Qwen3": {**WINDOWS, "max_window_layers": 1},
    "Qwen3Moe": {**EXPERTS, "norm_topk_prob": True, "mlp_only_layers": [1]},
    "GptOss": {
        "num_local_experts": 5,
        "num_experts_per_tok": 3,
        "sliding_window": 7,
        "rope_scaling": {**YARN, "truncate": False},
    },
    "Gemma2": {
        "model_type": "gemma2",
        "sliding_window": 7,
        "query_pre_attn_scalar": 6,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
    },
    "Gemma3": {"model_type": "gemma3_text", "sliding_window": 7, "sliding_window_pattern": 3},
    "Glm": {"model_type": "glm"},
    "Glm4": {"model_type": "glm4"},
    "Jiutian": {
        "num_key_value_heads": 4,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "rms_norm_eps": 1e-8,
    },
    "Qwen3Next": {**EXPERTS, **DELTA},
    "Qwen3_5Moe": {**EXPERTS, **DELTA},
    "Qwen3_5": DELTA,
    **{name: {**tiny(name), "vocab_size": VOCABULARY} for name in CONFIGS},
}


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Decoder:
    """In float64, with random weights."""
    named = {"architectures": [f"{request.param}ForCausalLM"]}
    keys = Keys({**SHAPE, **named, **FAMILIES[request.param]}, request.param)
    return fill(Decoder(model_config(keys), Mesh(), torch.float64))


@pytest.mark.parametrize("backend", [(), ("torch",)], ids=["reference", "torch"])
def test_tokens_are_those_of_the_naive_loop(model: Decoder, backend: tuple[str, ...]) -> None:
    """More requests than fit, with beginnings in common, longer than a step and than any window."""
    ops.use(*backend)
    made = engine(model, pages=13, max_num_batched_tokens=11, max_num_seqs=8)
    chance = random.Random(4)
    shared = chance.choices(range(VOCABULARY), k=24)
    adds = [
        add(
            str(i),
            shared[: 24 - 4 * (i % 3)] + chance.choices(range(VOCABULARY), k=i),
            14,
            ignore_eos=i % 2 == 0,
            temperature=0.8 if i == 5 else 0.0,
        )
        for i in range(6)
    ]
    try:
        for message in adds:
            made.add(message)
        news = run(made)
        stats = made.stats
        assert stats.split_prompts >= 2 and stats.prefix_hits >= 20 and stats.preemptions >= 1
        for message in adds:
            assert tokens_of(news[message.id]) == naive(model, message), message.id
    finally:
        ops.use()
