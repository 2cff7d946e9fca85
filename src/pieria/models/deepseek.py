"""DeepSeek-V2 (arXiv:2405.04434) and V3 (arXiv:2412.19437): latent attention and experts.

The first layers have no experts. Source: modeling_deepseek_v2.py and modeling_deepseek_v3.py of
transformers 5.23.
"""

from dataclasses import replace
from typing import Literal

from pieria.models import llama
from pieria.models.config import (
    LatentConfig,
    LayerConfig,
    MlpConfig,
    ModelConfig,
    MoeConfig,
    NormConfig,
    Rope,
)
from pieria.models.keys import Keys, yarn_magnitude
from pieria.models.names import Names

NAMES: Names = {
    **llama.NAMES,
    "layers.{}.mixer.q_a": "model.layers.{}.self_attn.q_a_proj",
    "layers.{}.mixer.q_a_norm": "model.layers.{}.self_attn.q_a_layernorm",
    "layers.{}.mixer.q_b": "model.layers.{}.self_attn.q_b_proj",
    "layers.{}.mixer.kv_a": "model.layers.{}.self_attn.kv_a_proj_with_mqa",
    "layers.{}.mixer.kv_a_norm": "model.layers.{}.self_attn.kv_a_layernorm",
    "layers.{}.mixer.kv_b": "model.layers.{}.self_attn.kv_b_proj",
    "layers.{}.mlp.router": "model.layers.{}.mlp.gate",
    "layers.{}.mlp.router.selection_bias": "model.layers.{}.mlp.gate.e_score_correction_bias",
    "layers.{}.mlp.experts.gate": "model.layers.{}.mlp.experts.{e}.gate_proj",
    "layers.{}.mlp.experts.up": "model.layers.{}.mlp.experts.{e}.up_proj",
    "layers.{}.mlp.experts.down": "model.layers.{}.mlp.experts.{e}.down_proj",
    "layers.{}.mlp.shared.gate": "model.layers.{}.mlp.shared_experts.gate_proj",
    "layers.{}.mlp.shared.up": "model.layers.{}.mlp.shared_experts.up_proj",
    "layers.{}.mlp.shared.down": "model.layers.{}.mlp.shared_experts.down_proj",
}
GGUF_INTERLEAVED: tuple[str, ...] = ()

SCORES: dict[str, Literal["softmax", "sigmoid"]] = {"softmax": "softmax", "sigmoid": "sigmoid"}
METHODS = {
    "softmax": {"greedy": False, "group_limited_greedy": True},
    "sigmoid": {"noaux_tc": True},
}
"""Score of experts -> `topk_method` -> whether they are chosen from some groups only."""

LATENT_NORM = NormConfig(1e-6)
"""Whatever `rms_norm_eps` says."""


def from_hf(keys: Keys) -> ModelConfig:
    norm = NormConfig(keys.number("rms_norm_eps"))
    mixer = _latent(keys)
    dense = MlpConfig(
        keys.integer("intermediate_size"),
        keys.choice("hidden_act", llama.ACTIVATIONS, "silu"),
        keys.flag("mlp_bias", False),
    )
    count = keys.layers()
    first = keys.integer("first_k_dense_replace", 0, least=0)
    every = keys.integer("moe_layer_freq", 1)
    mixed = [keys.has("n_routed_experts") and i >= first and i % every == 0 for i in range(count)]
    experts = _experts(keys, dense) if any(mixed) else dense
    layers = tuple(LayerConfig(mixer, experts if m else dense, norm) for m in mixed)
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


def _experts(keys: Keys, dense: MlpConfig) -> MoeConfig:
    third = "DeepseekV3ForCausalLM" in keys.values["architectures"]
    score = keys.choice("scoring_func", SCORES, "sigmoid" if third else "softmax")
    grouped = keys.choice("topk_method", METHODS[score], next(iter(METHODS[score])))
    if score == "softmax":
        why = (
            "DeepSeek's code then leaves routed_scaling_factor out, transformers' has no such case"
        )
        keys.refuse("norm_topk_prob", why)
    size = keys.integer("moe_intermediate_size")
    shared = keys.integer("n_shared_experts", 0, least=0)
    return MoeConfig(
        experts=keys.integer("n_routed_experts"),
        top=keys.integer("num_experts_per_tok"),
        size=size,
        score=score,
        renormalise=score == "sigmoid" and keys.flag("norm_topk_prob", True),
        scale=keys.number("routed_scaling_factor", 1.0),
        groups=keys.integer("n_group") if grouped else 1,
        top_groups=keys.integer("topk_group") if grouped else 1,
        group_score="top2" if score == "sigmoid" else "max",
        selection_bias=score == "sigmoid",
        activation=dense.activation,
        shared=replace(dense, size=size * shared) if shared else None,
    )


def _sharpness(keys: Keys, rope: Rope) -> float:
    """What longer contexts multiply scores by: yarn's magnitude for `mscale_all_dim`, squared."""
    key = "rope_parameters" if keys.has("rope_parameters") else "rope_scaling"
    if rope.scaling == "none" or not keys.part(key).values.get("mscale_all_dim"):
        return 1.0
    return yarn_magnitude(rope.factor, keys.part(key).number("mscale_all_dim")) ** 2
