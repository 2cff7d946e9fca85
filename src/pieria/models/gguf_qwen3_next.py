"""What a GGUF file of architecture qwen3next, qwen35 or qwen35moe says of its model, in the words
of Qwen3-Next's config.json. Torch-free.

Source: conversion/qwen.py of llama.cpp.
"""

from typing import Any

from pieria.models.keys import Keys


def own_keys(keys: Keys, rope_scaling: dict[str, Any] | None) -> dict[str, Any]:
    """Those that not every model has. keys: below the architecture. ValueError for what is missing.

    The published ones with experts have them in every layer, and renormalise.
    """
    heads, further = keys.integer("ssm.time_step_rank"), keys.integer("nextn_predict_layers", 0, 0)
    found: dict[str, Any] = {
        "num_hidden_layers": keys.integer("block_count") - further,
        "num_nextn_predict_layers": further,
        "full_attention_interval": keys.integer("full_attention_interval", 4),
        "linear_conv_kernel_dim": keys.integer("ssm.conv_kernel"),
        "linear_key_head_dim": keys.integer("ssm.state_size"),
        "linear_num_key_heads": keys.integer("ssm.group_count"),
        "linear_num_value_heads": heads,
        "linear_value_head_dim": keys.integer("ssm.inner_size") // heads,
    }
    if keys.has("expert_count"):
        size = keys.integer("expert_shared_feed_forward_length")
        found["shared_expert_intermediate_size"] = size
    return found
