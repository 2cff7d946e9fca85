"""DeepSeek-V2 (arXiv:2405.04434) and V3 (arXiv:2412.19437): latent attention, and experts after
the first layers.

Source: modeling_deepseek_v2.py and modeling_deepseek_v3.py of transformers 5.23.
"""

from dataclasses import replace

from pieria.models import llama
from pieria.models.config import (
    LatentConfig,
    LayerConfig,
    MlpConfig,
    ModelConfig,
    NormConfig,
    Rope,
)
from pieria.models.keys import Keys, yarn_magnitude

NAMES = {
    **llama.NAMES,
    "layers.{}.mixer.q_a": "model.layers.{}.self_attn.q_a_proj",
    "layers.{}.mixer.q_a_norm": "model.layers.{}.self_attn.q_a_layernorm",
    "layers.{}.mixer.q_b": "model.layers.{}.self_attn.q_b_proj",
    "layers.{}.mixer.kv_a": "model.layers.{}.self_attn.kv_a_proj_with_mqa",
    "layers.{}.mixer.kv_a_norm": "model.layers.{}.self_attn.kv_a_layernorm",
    "layers.{}.mixer.kv_b": "model.layers.{}.self_attn.kv_b_proj",
}
GGUF_INTERLEAVED: tuple[str, ...] = ()

LATENT_NORM = NormConfig(1e-6)
"""Whatever `rms_norm_eps` says."""


def from_hf(keys: Keys) -> ModelConfig:
    keys.refuse("quantization_config", "quantized checkpoints are not supported yet")
    norm = NormConfig(keys.number("rms_norm_eps"))
    mixer = _latent(keys)
    dense = MlpConfig(
        keys.integer("intermediate_size"),
        keys.choice("hidden_act", llama.ACTIVATIONS, "silu"),
        keys.flag("mlp_bias", False),
    )
    layers = tuple(
        LayerConfig(mixer, dense, norm) for i in range(keys.integer("num_hidden_layers"))
    )
    return ModelConfig(
        family="deepseek",
        hidden=keys.integer("hidden_size"),
        vocabulary=keys.integer("vocab_size"),
        context=keys.integer("max_position_embeddings"),
        layers=layers,
        norm=norm,
        tied=keys.flag("tie_word_embeddings", False),
    )


def _latent(keys: Keys) -> LatentConfig:
    nope, turning = keys.integer("qk_nope_head_dim"), keys.integer("qk_rope_head_dim")
    rope = replace(keys.rope(turning), interleaved=keys.flag("rope_interleave", True))
    return LatentConfig(
        heads=keys.integer("num_attention_heads"),
        q_rank=keys.integer("q_lora_rank") if keys.has("q_lora_rank") else None,
        kv_rank=keys.integer("kv_lora_rank"),
        nope_dim=nope,
        v_dim=keys.integer("v_head_dim"),
        rope=rope,
        scale=(nope + turning) ** -0.5 * _sharpness(keys, rope),
        norm=LATENT_NORM,
        bias=keys.flag("attention_bias", False),
    )


def _sharpness(keys: Keys, rope: Rope) -> float:
    """What longer contexts multiply scores by: yarn's magnitude for `mscale_all_dim`, squared."""
    key = "rope_parameters" if keys.has("rope_parameters") else "rope_scaling"
    if rope.scaling == "none" or not keys.part(key).values.get("mscale_all_dim"):
        return 1.0
    return yarn_magnitude(rope.factor, keys.part(key).number("mscale_all_dim")) ** 2
