"""Very small models of every family, as config.json and, of some, as GGUF metadata."""

from typing import Any

SIZES: dict[str, Any] = {
    "vocab_size": 3,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "max_position_embeddings": 16,
    "rms_norm_eps": 1e-5,
}
EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 4}
SHARED = {**EXPERTS, "shared_expert_intermediate_size": 4}
LATENTS = {"kv_lora_rank": 4, "qk_nope_head_dim": 4, "qk_rope_head_dim": 2, "v_head_dim": 4}
DELTA = {
    "layer_types": ["linear_attention", "full_attention"],
    "partial_rotary_factor": 0.5,
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 2,
    "linear_value_head_dim": 2,
}
YARN = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8}


def _of(architecture: str, **own: Any) -> dict[str, Any]:
    return {**SIZES, "architectures": [architecture], **own}


CONFIGS: dict[str, dict[str, Any]] = {
    "bert": _of("BertModel"),
    "deepseek": _of(
        "DeepseekV3ForCausalLM",
        **LATENTS,
        n_routed_experts=2,
        num_experts_per_tok=1,
        n_group=1,
        topk_group=1,
        moe_intermediate_size=4,
        first_k_dense_replace=1,
    ),
    "gemma": _of("Gemma3ForCausalLM", model_type="gemma3_text", sliding_window_pattern=2),
    "glm4": _of("Glm4ForCausalLM", model_type="glm4"),
    "gpt_oss": _of("GptOssForCausalLM", num_local_experts=2, num_experts_per_tok=1),
    "jiutian": _of("JiutianForCausalLM", qkv_bias=True),
    "jiutian_moe": _of("JiutianForCausalLM", num_local_experts=8, num_experts_per_tok=2),
    "llama": _of("LlamaForCausalLM", attention_bias=True, rope_scaling=YARN),
    "mistral": _of("MistralForCausalLM", sliding_window=4),
    "mixtral": _of(
        "MixtralForCausalLM", num_local_experts=2, num_experts_per_tok=1, sliding_window=4
    ),
    "qwen2": _of(
        "Qwen2ForCausalLM", use_sliding_window=True, sliding_window=4, max_window_layers=1
    ),
    "qwen2_moe": _of("Qwen2MoeForCausalLM", **SHARED, mlp_only_layers=[1]),
    "qwen3": _of("Qwen3ForCausalLM"),
    "qwen3_5": _of("Qwen3_5MoeForCausalLM", **SHARED, **DELTA),
    "qwen3_moe": _of("Qwen3MoeForCausalLM", **EXPERTS),
    "qwen3_next": _of("Qwen3NextForCausalLM", **SHARED, **DELTA),
}
"""By family's file."""

GGUF_SIZES = {
    "context_length": 16,
    "embedding_length": 8,
    "block_count": 2,
    "feed_forward_length": 8,
    "attention.head_count": 2,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "attention.layer_norm_epsilon": 1e-5,
}
GGUF_EXPERTS = {"expert_count": 2, "expert_used_count": 1, "expert_feed_forward_length": 4}
GGUF_SHARED = {**GGUF_EXPERTS, "expert_shared_feed_forward_length": 4}
GGUF_CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {**GGUF_EXPERTS, "rope.scaling.type": "yarn", "rope.scaling.factor": 2.5},
    "qwen2moe": GGUF_SHARED,
    "gemma3": {"attention.sliding_window": 4, "attention.key_length": 4},
    "gpt-oss": {**GGUF_EXPERTS, "attention.sliding_window": 4},
    "deepseek2": {
        **GGUF_EXPERTS,
        "rope.dimension_count": 2,
        "attention.key_length": 6,
        "attention.value_length": 4,
        "attention.kv_lora_rank": 4,
        "leading_dense_block_count": 1,
        "expert_gating_func": 2,
    },
    "qwen35moe": {
        **GGUF_SHARED,
        "full_attention_interval": 2,
        "ssm.time_step_rank": 2,
        "ssm.conv_kernel": 2,
        "ssm.state_size": 2,
        "ssm.group_count": 1,
        "ssm.inner_size": 4,
    },
    "bert": {},
}
"""By architecture, what its files say besides `GGUF_SIZES`."""
