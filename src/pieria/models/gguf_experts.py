"""What GGUF files of models with experts leave out or say otherwise, in the words of config.json.
Torch-free.

Source: conversion/llama.py, conversion/qwen.py and conversion/gpt_oss.py of llama.cpp.
"""

from typing import Any

from pieria.models.keys import Keys


def mixtral(keys: Keys, rope_scaling: dict[str, Any] | None) -> dict[str, Any]:
    """Llama's architecture has both names in these files. keys: below llama."""
    if not keys.values.get("expert_count"):
        return {}
    return {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral"}


def qwen2_moe(keys: Keys, rope_scaling: dict[str, Any] | None) -> dict[str, Any]:
    """None of the published ones renormalises; all have experts in every layer."""
    return {"norm_topk_prob": False}


def qwen3_moe(keys: Keys, rope_scaling: dict[str, Any] | None) -> dict[str, Any]:
    """All published ones renormalise, and have experts in every layer."""
    return {"norm_topk_prob": True}


def gpt_oss(keys: Keys, rope_scaling: dict[str, Any] | None) -> dict[str, Any]:
    """The published ones do not round the ends of YaRN's ramp."""
    return {} if rope_scaling is None else {"rope_scaling": {**rope_scaling, "truncate": False}}
