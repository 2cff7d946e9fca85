"""What Jiutian 35B may be: three configs, as config.json would have them.

Its total of 35 billion parameters, some 3.7 of them active, and 256K tokens of context are all that
is public. All else is inference: from the vendor's dense 8B (vocabulary, theta, biases), and from
the published models of about this size that it is compared with. Torch-free.
"""

from collections.abc import Mapping
from typing import Any

COMMON: Mapping[str, Any] = {
    "vocab_size": 152064,
    "max_position_embeddings": 262144,
    "rope_theta": 500000.0,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "eos_token_id": 151645,
}

CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "jiutian-35b-moe": {
        **COMMON,
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "hidden_size": 2048,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "attention_bias": False,
        "intermediate_size": 8192,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 896,
        "norm_topk_prob": True,
    },
    "jiutian-35b-mla": {
        **COMMON,
        "architectures": ["DeepseekV2ForCausalLM"],
        "model_type": "deepseek_v2",
        "hidden_size": 2560,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "q_lora_rank": None,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "attention_bias": False,
        "intermediate_size": 8960,
        "first_k_dense_replace": 1,
        "n_routed_experts": 160,
        "num_experts_per_tok": 6,
        "n_shared_experts": 2,
        "moe_intermediate_size": 768,
        "scoring_func": "softmax",
        "topk_method": "greedy",
        "norm_topk_prob": False,
        "routed_scaling_factor": 1.0,
    },
    "jiutian-35b-dense": {
        **COMMON,
        "architectures": ["JiutianForCausalLM"],
        "model_type": "jiutian",
        "hidden_size": 6144,
        "num_hidden_layers": 72,
        "num_attention_heads": 48,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "qkv_bias": True,
        "intermediate_size": 19968,
    },
}
"""By name. Experts with grouped heads are thought the likeliest."""

TINY: Mapping[str, Any] = {
    "vocab_size": 204,
    "max_position_embeddings": 512,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "n_routed_experts": 8,
    "moe_intermediate_size": 32,
    "eos_token_id": 2,
}


def tiny(name: str) -> dict[str, Any]:
    """The config of this name made small: the same keys and kinds of layers, other sizes."""
    config = CONFIGS[name]
    return {key: TINY.get(key, value) for key, value in config.items()}
