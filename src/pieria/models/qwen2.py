"""Qwen2 and Qwen2.5 (arXiv:2407.10671): Llama's form with biased q, k, v; some windowed layers."""

from pieria.models import llama
from pieria.models.config import ModelConfig
from pieria.models.keys import Keys

NAMES = llama.NAMES
GGUF_INTERLEAVED: tuple[str, ...] = ()


def from_hf(keys: Keys) -> ModelConfig:
    return llama.uniform(keys, "qwen2", qkv_bias=True, windows=windows(keys))


def windows(keys: Keys) -> tuple[int | None, ...] | None:
    """`layer_types` says which layers are windowed.

    Older files say `max_window_layers`: those from there on.
    """
    if not keys.flag("use_sliding_window", False) or not keys.has("sliding_window"):
        return None
    window, count = keys.integer("sliding_window"), keys.layers()
    first = min(keys.integer("max_window_layers", count), count)
    return keys.choices(
        "layer_types",
        count,
        {"full_attention": None, "sliding_attention": window},
        ["full_attention"] * first + ["sliding_attention"] * (count - first),
    )
