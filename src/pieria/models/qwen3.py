"""Qwen3 (arXiv:2505.09388): Qwen2's form with a norm of each head's q and k in place of biases.

Source: transformers' models/qwen3.
"""

from pieria.models import llama, qwen2
from pieria.models.config import ModelConfig
from pieria.models.keys import Keys
from pieria.models.names import Names

NAMES: Names = {
    **llama.NAMES,
    "layers.{}.mixer.q_norm": "model.layers.{}.self_attn.q_norm",
    "layers.{}.mixer.k_norm": "model.layers.{}.self_attn.k_norm",
}
GGUF_INTERLEAVED: tuple[str, ...] = ()


def from_hf(keys: Keys) -> ModelConfig:
    return normed(keys, "qwen3", qwen2.windows(keys))


def normed(keys: Keys, family: str, windows: tuple[int | None, ...] | None) -> ModelConfig:
    """The dense model of these keys."""
    bias = keys.flag("attention_bias", False)
    return llama.uniform(
        Keys({"head_dim": 128, **keys.values}, keys.source),
        family,
        qkv_bias=bias,
        out_bias=bias,
        qk_norm=True,
        windows=windows,
    )
