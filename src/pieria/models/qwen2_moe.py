"""Qwen1.5-MoE and Qwen2-57B-A14B (arXiv:2407.10671): Qwen2 with experts, one of them for all.

Source: transformers' models/qwen2_moe.
"""

from dataclasses import replace

from pieria.models import llama
from pieria.models.config import MlpConfig, ModelConfig, MoeConfig
from pieria.models.keys import Keys
from pieria.models.names import Names

EXPERT_NAMES = {
    "layers.{}.mlp.router": "model.layers.{}.mlp.gate",
    "layers.{}.mlp.experts.gate": "model.layers.{}.mlp.experts.{e}.gate_proj",
    "layers.{}.mlp.experts.up": "model.layers.{}.mlp.experts.{e}.up_proj",
    "layers.{}.mlp.experts.down": "model.layers.{}.mlp.experts.{e}.down_proj",
}
"""Of this family and those that copied its names."""

NAMES: Names = {
    **llama.NAMES,
    **EXPERT_NAMES,
    "layers.{}.mlp.shared.gate": "model.layers.{}.mlp.shared_expert.gate_proj",
    "layers.{}.mlp.shared.up": "model.layers.{}.mlp.shared_expert.up_proj",
    "layers.{}.mlp.shared.down": "model.layers.{}.mlp.shared_expert.down_proj",
    "layers.{}.mlp.shared_gate": "model.layers.{}.mlp.shared_expert_gate",
}
GGUF_INTERLEAVED: tuple[str, ...] = ()


def from_hf(keys: Keys) -> ModelConfig:
    keys.refuse("use_sliding_window", "windows are not supported in this family")
    activation = keys.choice("hidden_act", llama.ACTIVATIONS, "silu")
    moe = MoeConfig(
        experts=experts(keys),
        top=keys.integer("num_experts_per_tok"),
        size=keys.integer("moe_intermediate_size"),
        renormalise=keys.flag("norm_topk_prob", False),
        activation=activation,
        shared=MlpConfig(keys.integer("shared_expert_intermediate_size"), activation),
        shared_gate=True,
    )
    bias = keys.flag("qkv_bias", True)
    return with_experts(keys, llama.uniform(keys, "qwen2_moe", qkv_bias=bias), moe)


def experts(keys: Keys) -> int:
    """The number of experts; transformers calls it num_local_experts from version 5 on."""
    return keys.integer("num_experts" if keys.has("num_experts") else "num_local_experts")


def with_experts(keys: Keys, dense: ModelConfig, moe: MoeConfig) -> ModelConfig:
    """The dense model with experts in some layers.

    In those whose number, from 1, `decoder_sparse_step` divides, but for `mlp_only_layers`, which
    are numbered from 0.
    """
    step, plain = keys.integer("decoder_sparse_step", 1), keys.values.get("mlp_only_layers") or []
    if not isinstance(plain, list) or not all(type(i) is int for i in plain):
        raise ValueError(f"{keys.source}: mlp_only_layers={plain!r} must be a list of layers")
    unmixed = frozenset(plain)
    layers = tuple(
        layer if i in unmixed or (i + 1) % step else replace(layer, mlp=moe)
        for i, layer in enumerate(dense.layers)
    )
    return replace(dense, layers=layers)
