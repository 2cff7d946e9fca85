"""Jiutian 8B dense (JT-Coder, JT-Math, JT-DA): Qwen2's form but for the norm.

Its eps is added to the root, not under it. Source: modeling_jiutian.py and configuration_jiutian.py
of JT-LM/JT-DA-8B, which also discard `rope_scaling`.
"""

from pieria.models import llama
from pieria.models.config import ModelConfig
from pieria.models.keys import Keys

NAMES = llama.NAMES
GGUF_INTERLEAVED: tuple[str, ...] = ()


def from_hf(keys: Keys) -> ModelConfig:
    unscaled = Keys({**keys.values, "rope_scaling": None}, keys.source)
    return llama.uniform(unscaled, "jiutian", qkv_bias=keys.flag("qkv_bias"), eps_outside=True)
