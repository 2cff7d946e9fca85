"""Mistral (arXiv:2310.06825): Llama's form; the first version looks back 4096 tokens only.

Source: transformers' models/mistral.
"""

from pieria.models import llama
from pieria.models.config import ModelConfig
from pieria.models.keys import Keys

NAMES = llama.NAMES
GGUF_INTERLEAVED = llama.GGUF_INTERLEAVED


def from_hf(keys: Keys) -> ModelConfig:
    keys.refuse("layer_types", "windows of some layers only are not supported in this family")
    return windowed(Keys({"sliding_window": 4096, **keys.values}, keys.source), "mistral")


def windowed(keys: Keys, family: str) -> ModelConfig:
    """Every layer with the window that `sliding_window` says, if it says one."""
    window = keys.integer("sliding_window") if keys.has("sliding_window") else None
    windows = (window,) * keys.layers()
    return llama.uniform(keys, family, qkv_bias=False, windows=windows)
