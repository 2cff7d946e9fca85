"""Qwen3 with experts (arXiv:2505.09388): in every layer, or in some.

Source: transformers' models/qwen3_moe.
"""

from pieria.models import llama, qwen2_moe, qwen3
from pieria.models.config import ModelConfig, MoeConfig
from pieria.models.keys import Keys
from pieria.models.names import Names

NAMES: Names = {**qwen3.NAMES, **qwen2_moe.EXPERT_NAMES}
GGUF_INTERLEAVED: tuple[str, ...] = ()


def from_hf(keys: Keys) -> ModelConfig:
    window = keys.integer("sliding_window") if keys.flag("use_sliding_window", False) else None
    count = keys.layers()
    head_dim = keys.integer("hidden_size") // keys.integer("num_attention_heads")
    dense = qwen3.normed(
        Keys({"head_dim": head_dim, **keys.values}, keys.source), "qwen3_moe", (window,) * count
    )
    moe = MoeConfig(
        experts=qwen2_moe.experts(keys),
        top=keys.integer("num_experts_per_tok"),
        size=keys.integer("moe_intermediate_size"),
        renormalise=keys.flag("norm_topk_prob", False),
        activation=keys.choice("hidden_act", llama.ACTIVATIONS, "silu"),
    )
    return qwen2_moe.with_experts(keys, dense, moe)
