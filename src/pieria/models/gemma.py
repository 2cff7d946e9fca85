"""Gemma 2 (arXiv:2408.00118) and the text part of Gemma 3 (arXiv:2503.19786).

Four norms a layer, of weights that are stored less one; windowed layers between those that see all.
Gemma 2 caps scores and logits; Gemma 3 norms queries and keys instead, and windowed layers turn
faster than the others. Source: transformers' models/gemma2 and models/gemma3.
"""

from collections.abc import Mapping
from dataclasses import replace

from pieria.models import llama
from pieria.models.config import (
    AttentionConfig,
    LayerConfig,
    MlpConfig,
    ModelConfig,
    NormConfig,
    Rope,
)
from pieria.models.keys import Keys

NAMES = {
    **llama.NAMES,
    "layers.{}.mixer.q_norm": "model.layers.{}.self_attn.q_norm",
    "layers.{}.mixer.k_norm": "model.layers.{}.self_attn.k_norm",
    "layers.{}.mixer_post_norm": "model.layers.{}.post_attention_layernorm",
    "layers.{}.mlp_norm": "model.layers.{}.pre_feedforward_layernorm",
    "layers.{}.mlp_post_norm": "model.layers.{}.post_feedforward_layernorm",
}
GGUF_INTERLEAVED: tuple[str, ...] = ()

GEMMA2 = {
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "max_position_embeddings": 8192,
    "sliding_window_pattern": 2,
    "vocab_size": 256000,
}
GEMMA3 = {
    "max_position_embeddings": 131072,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "sliding_window_pattern": 6,
    "vocab_size": 262208,
}
BOTH = {
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-6,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
}
DEFAULTS = {"gemma2": {**BOTH, **GEMMA2}, "gemma3_text": {**BOTH, **GEMMA3}}
"""What a config.json may leave out, and does, by model_type."""


def from_hf(keys: Keys) -> ModelConfig:
    text = keys.part("text_config") if keys.has("text_config") else keys
    defaults = text.choice("model_type", DEFAULTS)
    text = Keys({**defaults, **text.values}, text.source)
    text.refuse("use_bidirectional_attention", "only causal attention is supported")
    third = defaults is DEFAULTS["gemma3_text"]
    if third:
        text.refuse("attn_logit_softcapping", "Gemma 3 has none")
    head_dim, bias = text.integer("head_dim"), text.flag("attention_bias", False)
    norm = NormConfig(text.number("rms_norm_eps"), offset=1.0)
    wide = AttentionConfig(
        text.integer("num_attention_heads"),
        text.integer("num_key_value_heads"),
        head_dim,
        _rope(text, "full_attention", head_dim),
        scale=text.number("query_pre_attn_scalar") ** -0.5,
        qkv_bias=bias,
        out_bias=bias,
        soft_cap=_optional(text, "attn_logit_softcapping"),
        qk_norm=norm if third else None,
    )
    rope = _rope(text, "sliding_attention", head_dim) if third else wide.rope
    local = replace(wide, window=text.integer("sliding_window"), rope=rope)
    count, period = text.layers(), text.integer("sliding_window_pattern")
    mixers = text.choices(
        "layer_types",
        count,
        {"full_attention": wide, "sliding_attention": local},
        ["sliding_attention" if i % period else "full_attention" for i in range(1, count + 1)],
    )
    mlp = MlpConfig(
        text.integer("intermediate_size"), text.choice("hidden_activation", llama.ACTIVATIONS)
    )
    hidden = text.integer("hidden_size")
    return ModelConfig(
        family="gemma3" if third else "gemma2",
        hidden=hidden,
        vocabulary=text.integer("vocab_size"),
        context=text.integer("max_position_embeddings"),
        layers=tuple(LayerConfig(mixer, mlp, norm, post_norms=True) for mixer in mixers),
        norm=norm,
        tied=text.flag("tie_word_embeddings"),
        embed_scale=hidden**0.5,
        logit_soft_cap=_optional(text, "final_logit_softcapping"),
    )


def _rope(text: Keys, kind: str, dim: int) -> Rope:
    """The rope of one kind of layer: newer files state each, older ones a theta for windows."""
    each = text.values.get("rope_parameters")
    if isinstance(each, Mapping) and kind in each:
        return Keys({**text.values, "rope_parameters": each[kind]}, text.source).rope(dim)
    if kind == "sliding_attention":
        return Rope(text.number("rope_local_base_freq"), dim)
    return text.rope(dim)


def _optional(keys: Keys, key: str) -> float | None:
    return keys.number(key) if keys.has(key) else None
