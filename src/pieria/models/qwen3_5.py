"""Qwen3.5 and what kept its form, dense or with experts; the text part of those that also see.

Qwen3-Next's form; where files keep one matrix there, they keep several here. Source: transformers'
models/qwen3_5 and models/qwen3_5_moe.
"""

from pieria.models.config import ModelConfig
from pieria.models.keys import Keys
from pieria.models.names import Names, Source, parts
from pieria.models.qwen3_next import DELTA, OWN_NAMES, hybrid

EXPERTS = "model.layers.{}.mlp.experts."

NAMES: Names = {
    **OWN_NAMES,
    **parts("layers.{}.mixer.", ("query", "key", "value"), DELTA + "in_proj_qkv"),
    "layers.{}.mixer.z": DELTA + "in_proj_z",
    "layers.{}.mixer.beta": DELTA + "in_proj_b",
    "layers.{}.mixer.decay": DELTA + "in_proj_a",
    # As published; transformers saves a tensor for each expert.
    "layers.{}.mlp.experts.gate.weight": Source(EXPERTS + "gate_up_proj", 0, 2, dim=1),
    "layers.{}.mlp.experts.up.weight": Source(EXPERTS + "gate_up_proj", 1, 2, dim=1),
    "layers.{}.mlp.experts.down.weight": EXPERTS + "down_proj",
}
GGUF_INTERLEAVED: tuple[str, ...] = ()


def from_hf(keys: Keys) -> ModelConfig:
    text = keys.part("text_config") if keys.has("text_config") else keys
    return hybrid(keys, text, "qwen3_5")
