"""Qwen2 and Qwen2.5 (arXiv:2407.10671):

Llama's form with biased q, k and v, and windows in some layers.
"""

from pieria.models import llama
from pieria.models.config import ModelConfig
from pieria.models.keys import Keys

NAMES = llama.NAMES
GGUF_INTERLEAVED: tuple[str, ...] = ()


def from_hf(keys: Keys) -> ModelConfig:
    return llama.uniform(keys, "qwen2", qkv_bias=True, windows=_windows(keys))


def _windows(keys: Keys) -> tuple[int | None, ...] | None:
    """`layer_types` says which layers are windowed

    Older files say `max_window_layers`: those from there on.
    """
    if not keys.flag("use_sliding_window", False) or not keys.has("sliding_window"):
        return None
    window, count = keys.integer("sliding_window"), keys.integer("num_hidden_layers")
    types = keys.values.get("layer_types")
    if types is None:
        first = keys.integer("max_window_layers", count)
        types = ["full_attention"] * min(first, count) + ["sliding_attention"] * (count - first)
    known = {"full_attention": None, "sliding_attention": window}
    if len(types) != count or any(t not in known for t in types):
        raise ValueError(
            f"{keys.source}: layer_types={types!r} must be {count} of {', '.join(known)}"
        )
    return tuple(known[t] for t in types)
