"""gpt-oss (arXiv:2508.10925): sinks in every head, windows in every other layer, biased experts.

Files keep what enters an expert as one, gate and up in turns, and its matrices the other way round;
those that are packed (`mxfp4_file`) are not.
Source: transformers' models/gpt_oss.
"""

from dataclasses import replace

from pieria.models import llama
from pieria.models.config import ModelConfig, MoeConfig
from pieria.models.keys import Keys
from pieria.models.names import Names, Source

EXPERTS = "model.layers.{}.mlp.experts."

NAMES: Names = {
    **llama.NAMES,
    "layers.{}.mixer.sinks.weight": "model.layers.{}.self_attn.sinks",
    "layers.{}.mlp.router": "model.layers.{}.mlp.router",
    "layers.{}.mlp.experts.gate.weight": Source(
        EXPERTS + "gate_up_proj", 0, 2, dim=1, interleaved=True, transposed=True
    ),
    "layers.{}.mlp.experts.gate.bias": Source(
        EXPERTS + "gate_up_proj_bias", 0, 2, dim=1, interleaved=True
    ),
    "layers.{}.mlp.experts.up.weight": Source(
        EXPERTS + "gate_up_proj", 1, 2, dim=1, interleaved=True, transposed=True
    ),
    "layers.{}.mlp.experts.up.bias": Source(
        EXPERTS + "gate_up_proj_bias", 1, 2, dim=1, interleaved=True
    ),
    "layers.{}.mlp.experts.down.weight": Source(EXPERTS + "down_proj", transposed=True),
    "layers.{}.mlp.experts.down.bias": EXPERTS + "down_proj_bias",
}
GGUF_INTERLEAVED: tuple[str, ...] = ()


def from_hf(keys: Keys) -> ModelConfig:
    count = keys.layers()
    windows = keys.choices(
        "layer_types",
        count,
        {"full_attention": None, "sliding_attention": keys.integer("sliding_window", 128)},
        ["full_attention" if i % 2 else "sliding_attention" for i in range(count)],
    )
    bias = keys.flag("attention_bias", True)
    dense = llama.uniform(
        Keys({"head_dim": 64, "rope_theta": 150000.0, **keys.values}, keys.source),
        "gpt_oss",
        qkv_bias=bias,
        out_bias=bias,
        sinks=True,
        windows=windows,
    )
    moe = MoeConfig(
        experts=keys.integer("num_local_experts"),
        top=keys.integer("num_experts_per_tok"),
        size=keys.integer("intermediate_size"),
        router_bias=True,
        activation="clamped",
        limit=keys.number("swiglu_limit", 7.0),
        slope=keys.number("swiglu_alpha", 1.702),
        bias=True,
    )
    return replace(dense, layers=tuple(replace(layer, mlp=moe) for layer in dense.layers))
