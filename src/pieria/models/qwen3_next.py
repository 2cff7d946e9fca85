"""Qwen3-Next: three layers of the gated delta rule, then one of gated attention; experts in each.

Source: transformers' models/qwen3_next.
"""

from pieria.models import qwen2_moe, qwen3
from pieria.models.config import (
    AttentionConfig,
    DeltaConfig,
    LayerConfig,
    MlpConfig,
    ModelConfig,
    MoeConfig,
    NormConfig,
)
from pieria.models.keys import Keys
from pieria.models.names import Names, parts

ATTENTION = "model.layers.{}.self_attn."
DELTA = "model.layers.{}.linear_attn."

OWN_NAMES: Names = {
    **qwen2_moe.NAMES,
    **qwen3.NAMES,
    **parts("layers.{}.mixer.", ("q", "gate"), ATTENTION + "q_proj", interleaved=True),
    **parts("layers.{}.mixer.", ("query_taps", "key_taps", "value_taps"), DELTA + "conv1d"),
    "layers.{}.mixer.rates.log": DELTA + "A_log",
    "layers.{}.mixer.rates.bias": DELTA + "dt_bias",
    "layers.{}.mixer.norm": DELTA + "norm",
    "layers.{}.mixer.out": DELTA + "out_proj",
}
"""Without what a token gives to the delta rule."""

NAMES: Names = {
    **OWN_NAMES,
    **parts(
        "layers.{}.mixer.",
        ("query", "key", "value", "z"),
        DELTA + "in_proj_qkvz",
        interleaved=True,
    ),
    **parts("layers.{}.mixer.", ("beta", "decay"), DELTA + "in_proj_ba", interleaved=True),
}
GGUF_INTERLEAVED: tuple[str, ...] = ()


def from_hf(keys: Keys) -> ModelConfig:
    return hybrid(keys, keys, "qwen3_next")


def hybrid(keys: Keys, text: Keys, family: str) -> ModelConfig:
    """text: the keys of the language model, where they are apart from the others."""
    text.refuse("attn_output_gate", "only gated attention is supported", (None, True))
    count, every = text.layers(), text.integer("full_attention_interval", 4)
    norm = NormConfig(text.number("rms_norm_eps", 1e-6), offset=1.0)
    mixers = text.choices(
        "layer_types",
        count,
        {"full_attention": _attention(text, norm), "linear_attention": _delta(text, norm.eps)},
        ["linear_attention" if i % every else "full_attention" for i in range(1, count + 1)],
    )
    activation = text.choice("hidden_act", {"silu": "silu"}, "silu")
    moe = None
    if text.has("num_experts_per_tok"):
        moe = MoeConfig(
            experts=qwen2_moe.experts(text),
            top=text.integer("num_experts_per_tok"),
            size=text.integer("moe_intermediate_size"),
            renormalise=text.flag("norm_topk_prob", True),
            activation=activation,
            shared=MlpConfig(text.integer("shared_expert_intermediate_size"), activation),
            shared_gate=True,
        )
    dense = moe is None or text.has("intermediate_size")
    mlp = MlpConfig(text.integer("intermediate_size"), activation) if dense else moe
    assert mlp is not None
    model = ModelConfig(
        family=family,
        hidden=text.integer("hidden_size"),
        vocabulary=text.integer("vocab_size"),
        context=text.integer("max_position_embeddings"),
        layers=tuple(LayerConfig(mixer, mlp, norm) for mixer in mixers),
        norm=norm,
        tied=keys.flag("tie_word_embeddings", text.flag("tie_word_embeddings", False)),
    )
    return model if moe is None else qwen2_moe.with_experts(text, model, moe)


def _attention(text: Keys, norm: NormConfig) -> AttentionConfig:
    size, bias = text.integer("head_dim", 256), text.flag("attention_bias", False)
    given = text.part("rope_parameters") if text.has("rope_parameters") else text
    factor = given.number("partial_rotary_factor", text.number("partial_rotary_factor", 0.25))
    return AttentionConfig(
        text.integer("num_attention_heads"),
        text.integer("num_key_value_heads"),
        size,
        text.rope(int(size * factor)),
        scale=size**-0.5,
        qkv_bias=bias,
        out_bias=bias,
        qk_norm=norm,
        gated=True,
    )


def _delta(text: Keys, eps: float) -> DeltaConfig:
    return DeltaConfig(
        heads=text.integer("linear_num_value_heads", 32),
        key_heads=text.integer("linear_num_key_heads", 16),
        key_dim=text.integer("linear_key_head_dim", 128),
        value_dim=text.integer("linear_value_head_dim", 128),
        taps=text.integer("linear_conv_kernel_dim", 4),
        norm=NormConfig(eps),
    )
