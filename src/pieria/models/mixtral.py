"""Mixtral (arXiv:2401.04088): Mistral's form with experts in every layer.

Source: transformers' models/mixtral.
"""

from dataclasses import replace

from pieria.models import llama, mistral
from pieria.models.config import ModelConfig, MoeConfig
from pieria.models.keys import Keys
from pieria.models.names import Names

NAMES: Names = {
    **llama.NAMES,
    "layers.{}.mlp.router": "model.layers.{}.block_sparse_moe.gate",
    "layers.{}.mlp.experts.gate": "model.layers.{}.block_sparse_moe.experts.{e}.w1",
    "layers.{}.mlp.experts.up": "model.layers.{}.block_sparse_moe.experts.{e}.w3",
    "layers.{}.mlp.experts.down": "model.layers.{}.block_sparse_moe.experts.{e}.w2",
}
GGUF_INTERLEAVED = llama.GGUF_INTERLEAVED


def from_hf(keys: Keys) -> ModelConfig:
    dense = mistral.windowed(keys, "mixtral")
    moe = MoeConfig(
        experts=keys.integer("num_local_experts"),
        top=keys.integer("num_experts_per_tok"),
        size=keys.integer("intermediate_size"),
        activation=keys.choice("hidden_act", llama.ACTIVATIONS, "silu"),
    )
    return replace(dense, layers=tuple(replace(layer, mlp=moe) for layer in dense.layers))
