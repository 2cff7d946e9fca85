"""Llama 2 and 3 (arXiv:2307.09288, arXiv:2407.21783) and what has their form, such as SmolLM2."""

from pieria.models.config import (
    AttentionConfig,
    LayerConfig,
    MlpConfig,
    ModelConfig,
    NormConfig,
    Rope,
)
from pieria.models.keys import Keys

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}

NAMES = {
    "embed": "model.embed_tokens",
    "layers.{}.mixer_norm": "model.layers.{}.input_layernorm",
    "layers.{}.mixer.q": "model.layers.{}.self_attn.q_proj",
    "layers.{}.mixer.k": "model.layers.{}.self_attn.k_proj",
    "layers.{}.mixer.v": "model.layers.{}.self_attn.v_proj",
    "layers.{}.mixer.o": "model.layers.{}.self_attn.o_proj",
    "layers.{}.mlp_norm": "model.layers.{}.post_attention_layernorm",
    "layers.{}.mlp.gate": "model.layers.{}.mlp.gate_proj",
    "layers.{}.mlp.up": "model.layers.{}.mlp.up_proj",
    "layers.{}.mlp.down": "model.layers.{}.mlp.down_proj",
    "norm": "model.norm",
    "head": "lm_head",
}
"""Module here -> module in the published files, of this family and those that copied its names."""

GGUF_INTERLEAVED = ("mixer.q", "mixer.k")
"""GGUF files of this family keep the rows of these in interleaved rotary order."""


def from_hf(keys: Keys) -> ModelConfig:
    bias = keys.flag("attention_bias", False)
    return uniform(
        keys, "llama", qkv_bias=bias, out_bias=bias, mlp_bias=keys.flag("mlp_bias", False)
    )


def uniform(
    keys: Keys,
    family: str,
    *,
    qkv_bias: bool,
    out_bias: bool = False,
    mlp_bias: bool = False,
    eps_outside: bool = False,
    post_norms: bool = False,
    qk_norm: bool = False,
    sinks: bool = False,
    rope: Rope | None = None,
    windows: tuple[int | None, ...] | None = None,
) -> ModelConfig:
    """A model whose layers are alike but for their windows (one a layer; None: none has any).

    rope: where `keys` do not say all of it.
    """
    hidden, heads = keys.integer("hidden_size"), keys.integer("num_attention_heads")
    head_dim = keys.integer("head_dim", max(hidden // heads, 1))
    norm = NormConfig(keys.number("rms_norm_eps"), eps_outside)
    mlp = MlpConfig(
        keys.integer("intermediate_size"),
        keys.choice("hidden_act", ACTIVATIONS, "silu"),
        mlp_bias,
    )
    rope = rope or keys.rope(int(head_dim * keys.number("partial_rotary_factor", 1.0)))
    count = keys.layers()
    layers = tuple(
        LayerConfig(
            AttentionConfig(
                heads,
                keys.integer("num_key_value_heads", heads),
                head_dim,
                rope,
                scale=head_dim**-0.5,
                qkv_bias=qkv_bias,
                out_bias=out_bias,
                window=window,
                qk_norm=norm if qk_norm else None,
                sinks=sinks,
            ),
            mlp,
            norm,
            post_norms,
        )
        for window in (windows or (None,) * count)
    )
    return ModelConfig(
        family=family,
        hidden=hidden,
        vocabulary=keys.integer("vocab_size"),
        context=keys.integer("max_position_embeddings"),
        layers=layers,
        norm=norm,
        tied=keys.flag("tie_word_embeddings", False),
    )
