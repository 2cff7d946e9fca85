"""GLM-4, with four norms a layer (the 0414 models) or two (GLM-4-9B; arXiv:2406.12793).

The first half of a head turns, pairs side by side; files keep gate and up as one. Source:
transformers' models/glm4 and models/glm.
"""

from dataclasses import replace

from pieria.models import llama
from pieria.models.config import ModelConfig
from pieria.models.keys import Keys
from pieria.models.names import Names, Source

NAMES: Names = {
    **llama.NAMES,
    "layers.{}.mixer_post_norm": "model.layers.{}.post_self_attn_layernorm",
    "layers.{}.mlp.gate": Source("model.layers.{}.mlp.gate_up_proj", 0, 2),
    "layers.{}.mlp.up": Source("model.layers.{}.mlp.gate_up_proj", 1, 2),
    "layers.{}.mlp_post_norm": "model.layers.{}.post_mlp_layernorm",
}
GGUF_INTERLEAVED: tuple[str, ...] = ()

POST_NORMS = {"glm": False, "glm4": True}


def from_hf(keys: Keys) -> ModelConfig:
    post_norms = keys.choice("model_type", POST_NORMS)
    head_dim = keys.integer("hidden_size") // keys.integer("num_attention_heads")
    given = keys.part("rope_parameters") if keys.has("rope_parameters") else keys
    factor = given.number("partial_rotary_factor", keys.number("partial_rotary_factor", 0.5))
    return llama.uniform(
        keys,
        "glm4",
        qkv_bias=keys.flag("attention_bias", True),
        post_norms=post_norms,
        rope=replace(keys.rope(int(keys.integer("head_dim", head_dim) * factor)), interleaved=True),
    )
