"""What a GGUF file's metadata says about its model, in the words of a Hugging Face config.json.

Knows the architectures by name; the families' own `from_hf` knows the rest. Torch-free.
Source of the keys: docs/gguf.md of ggml and gguf-py's constants.py.
"""

from collections.abc import Mapping
from typing import Any

from pieria.models import gguf_deepseek, gguf_experts, gguf_gemma, gguf_qwen3_next
from pieria.models.gguf import GgufFile, read_floats
from pieria.models.keys import Keys

ARCHITECTURES: Mapping[str, tuple[str, str]] = {
    "llama": ("LlamaForCausalLM", "llama"),
    "qwen2": ("Qwen2ForCausalLM", "qwen2"),
    "qwen2moe": ("Qwen2MoeForCausalLM", "qwen2_moe"),
    "qwen3": ("Qwen3ForCausalLM", "qwen3"),
    "qwen3moe": ("Qwen3MoeForCausalLM", "qwen3_moe"),
    "qwen3next": ("Qwen3NextForCausalLM", "qwen3_next"),
    "qwen35": ("Qwen3_5ForCausalLM", "qwen3_5_text"),
    "qwen35moe": ("Qwen3_5MoeForCausalLM", "qwen3_5_moe_text"),
    "gpt-oss": ("GptOssForCausalLM", "gpt_oss"),
    "deepseek2": ("DeepseekV2ForCausalLM", "deepseek_v2"),
    "gemma2": ("Gemma2ForCausalLM", "gemma2"),
    "gemma3": ("Gemma3ForCausalLM", "gemma3_text"),
    "glm4": ("Glm4ForCausalLM", "glm4"),
    "chatglm": ("GlmForCausalLM", "glm"),
    "bert": ("BertModel", "bert"),
}
"""general.architecture -> (architecture, model_type) of config.json."""

AS_THEY_ARE = {
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "expert_count": "num_local_experts",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
    "expert_used_count": "num_experts_per_tok",
    "final_logit_softcapping": "final_logit_softcapping",
    "rope.freq_base_swa": "rope_local_base_freq",
}
"""Keys here, where a file has them -> keys of config.json with the same values."""

ENCODERS = ("bert",)
"""Architectures whose tokens see the whole text. Their norms are centered."""

YARN = {
    "rope.scaling.original_context_length": "original_max_position_embeddings",
    "rope.scaling.yarn_attn_factor": "attention_factor",
    "rope.scaling.yarn_beta_fast": "beta_fast",
    "rope.scaling.yarn_beta_slow": "beta_slow",
}
"""Keys here, where a file has them -> keys of `rope_scaling`."""

UNREAD = {
    "attention.sliding_window_pattern": (None,),
    "pooling_type": (None, 0, 1, 2, 3),
    "rope.scaling.attn_factor": (None, 1.0),
}
"""Keys that would change what a model computes -> their values that change nothing."""

OWN_KEYS = {
    "deepseek2": gguf_deepseek.own_keys,
    "gemma2": gguf_gemma.gemma2,
    "gemma3": gguf_gemma.gemma3,
    "gpt-oss": gguf_experts.gpt_oss,
    "llama": gguf_experts.mixtral,
    "qwen2moe": gguf_experts.qwen2_moe,
    "qwen3moe": gguf_experts.qwen3_moe,
    "qwen3next": gguf_qwen3_next.own_keys,
    "qwen35": gguf_qwen3_next.own_keys,
    "qwen35moe": gguf_qwen3_next.own_keys,
}
"""Architecture -> what it says besides, from its keys and `rope_scaling`."""

ROPE_FACTORS = "rope_freqs.weight"
BIASES = ("blk.0.attn_q.bias", "blk.0.attn_qkv.bias")


def hf_config(file: GgufFile) -> dict[str, Any]:
    """The config.json the model would have. ValueError for what is missing or not supported."""
    arch = file.metadata.get("general.architecture")
    if not isinstance(arch, str) or arch not in ARCHITECTURES:
        raise ValueError(
            f"{file.path}: general.architecture={arch!r} is not supported;"
            f" there are: {', '.join(ARCHITECTURES)}"
        )
    architecture, model_type = ARCHITECTURES[arch]
    keys = Keys(_under(file.metadata, f"{arch}."), f"{file.path}: {arch}")
    encoder = arch in ENCODERS
    for key, harmless in UNREAD.items():
        keys.refuse(key, "it is not supported", harmless)
    seen = "the whole text" if encoder else "what is before them"
    keys.refuse("attention.causal", f"tokens see {seen} in this architecture", (None, not encoder))
    if arch not in OWN_KEYS:
        keys.refuse("expert_count", "mixtures of experts are not supported yet", (None, 0))
    hidden, heads = keys.integer("embedding_length"), keys.integer("attention.head_count")
    head_dim = keys.integer("attention.key_length", max(hidden // heads, 1))
    rotary = keys.integer("rope.dimension_count", head_dim)
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list):
        raise ValueError(f"{file.path}: there is no vocabulary (tokenizer.ggml.tokens)")
    optional = {hf: keys.values[key] for key, hf in AS_THEY_ARE.items() if keys.has(key)}
    rope_scaling = _rope_scaling(file, keys)
    own = OWN_KEYS[arch](keys, rope_scaling) if arch in OWN_KEYS else {}
    return {
        **optional,
        **(_encoder(file, keys) if encoder else _decoder(file, keys)),
        "architectures": [architecture],
        "model_type": model_type,
        "hidden_size": hidden,
        "num_hidden_layers": keys.integer("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": keys.integer("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "partial_rotary_factor": rotary / head_dim,
        "intermediate_size": keys.integer(
            "feed_forward_length", keys.values.get("expert_feed_forward_length")
        ),
        "max_position_embeddings": keys.integer("context_length"),
        "rope_theta": keys.number("rope.freq_base", 10000.0),
        "rope_scaling": rope_scaling,
        "vocab_size": len(tokens),
        "bos_token_id": file.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": file.metadata.get("tokenizer.ggml.eos_token_id"),
        **own,
    }


def _decoder(file: GgufFile, keys: Keys) -> dict[str, Any]:
    return {
        "rms_norm_eps": keys.number("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "hidden_act": "silu",
        "attention_bias": any(name in file.tensors for name in BIASES),
        "mlp_bias": "blk.0.ffn_up.bias" in file.tensors,
    }


def _encoder(file: GgufFile, keys: Keys) -> dict[str, Any]:
    return {
        "layer_norm_eps": keys.number("attention.layer_norm_epsilon"),
        "hidden_act": "gelu",
        "type_vocab_size": file.metadata.get("tokenizer.ggml.token_type_count"),
    }


def _rope_scaling(file: GgufFile, keys: Keys) -> dict[str, Any] | None:
    scaling: dict[str, Any] | None = None
    kind = keys.values.get("rope.scaling.type", "linear")
    # rope.scale_linear is what older files have.
    factor = keys.number("rope.scaling.factor", keys.number("rope.scale_linear", 1.0))
    if kind != "none" and (kind, factor) != ("linear", 1.0):
        scaling = {"rope_type": kind, "factor": factor}
        if kind == "yarn":
            scaling.update({hf: keys.values[key] for key, hf in YARN.items() if keys.has(key)})
    factors = file.tensors.get(ROPE_FACTORS)
    if factors is None:
        return scaling
    if scaling is not None or factors.format.name != "F32" or len(factors.shape) != 1:
        raise ValueError(
            f"{file.path}: {ROPE_FACTORS} must be one row of F32 and come without other scaling;"
            f" it is {factors.format.name} of shape {factors.shape}, the scaling is {scaling}"
        )
    return {"rope_type": "factors", "factors": read_floats(factors)}


def _under(metadata: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {key[len(prefix) :]: v for key, v in metadata.items() if key.startswith(prefix)}
