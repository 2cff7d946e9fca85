"""What a GGUF file of architecture deepseek2 says of its model, in the words of DeepSeek's
config.json. Torch-free.

Source: conversion/base.py, conversion/deepseek.py and src/models/deepseek2.cpp of llama.cpp.
"""

from typing import Any

from pieria.models.keys import Keys

SCORES = {1: "softmax", 2: "sigmoid"}
"""Of `expert_gating_func`."""


def own_keys(keys: Keys, rope_scaling: dict[str, Any] | None) -> dict[str, Any]:
    """Those that not every model has. keys: below deepseek2. ValueError for what is missing."""
    rotary = keys.integer("rope.dimension_count")
    # Newer files give the sizes of what is cached as key_length and value_length.
    key = keys.integer("attention.key_length_mla", keys.integer("attention.key_length"))
    value = keys.integer("attention.value_length_mla", keys.integer("attention.value_length"))
    found: dict[str, Any] = {
        "q_lora_rank": keys.values.get("attention.q_lora_rank"),
        "kv_lora_rank": keys.integer("attention.kv_lora_rank"),
        "qk_nope_head_dim": key - rotary,
        "qk_rope_head_dim": rotary,
        "v_head_dim": value,
        "rope_scaling": rope_scaling,
    }
    whole = keys.values.get("rope.scaling.yarn_log_multiplier")
    if rope_scaling is not None and whole:
        # A tenth of mscale_all_dim, and mscale is the same where these files are used.
        found["rope_scaling"] = {**rope_scaling, "mscale": whole * 10, "mscale_all_dim": whole * 10}
    if keys.values.get("expert_count"):
        found.update(_experts(keys))
    return found


def _experts(keys: Keys) -> dict[str, Any]:
    gating = keys.integer("expert_gating_func", 1)
    if gating not in SCORES:
        raise ValueError(f"{keys.source}: expert_gating_func={gating!r}; there are: 1, 2")
    third = SCORES[gating] == "sigmoid"
    groups = keys.integer("expert_group_count", 1)
    greedy = "greedy" if groups == 1 else "group_limited_greedy"
    version = 3 if third else 2
    return {
        "architectures": [f"DeepseekV{version}ForCausalLM"],
        "model_type": f"deepseek_v{version}",
        "first_k_dense_replace": keys.integer("leading_dense_block_count", 0, least=0),
        "n_routed_experts": keys.integer("expert_count"),
        "n_shared_experts": keys.integer("expert_shared_count", 0, least=0),
        "num_experts_per_tok": keys.integer("expert_used_count"),
        "moe_intermediate_size": keys.integer("expert_feed_forward_length"),
        "routed_scaling_factor": keys.number("expert_weights_scale", 1.0),
        "norm_topk_prob": keys.flag("expert_weights_norm", False),
        "scoring_func": SCORES[gating],
        "topk_method": "noaux_tc" if third else greedy,
        "n_group": groups,
        "topk_group": keys.integer("expert_group_used_count", 1),
    }
