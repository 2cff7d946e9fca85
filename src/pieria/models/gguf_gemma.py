"""What GGUF files of Gemma 2 and 3 leave out, in the words of config.json. Torch-free.

Source: conversion/gemma.py, src/models/gemma2.cpp and src/models/gemma3.cpp of llama.cpp.
"""

from typing import Any

from pieria.models.keys import Keys


def gemma2(keys: Keys, rope_scaling: dict[str, Any] | None) -> dict[str, Any]:
    """keys: below gemma2."""
    return {"query_pre_attn_scalar": _scale(keys, largest=46)}


def gemma3(keys: Keys, rope_scaling: dict[str, Any] | None) -> dict[str, Any]:
    """keys: below gemma3. Without a window, all layers see all."""
    found: dict[str, Any] = {"query_pre_attn_scalar": _scale(keys, largest=62)}
    if not keys.has("attention.sliding_window"):
        found["sliding_window_pattern"] = 1
    return found


def _scale(keys: Keys, largest: int) -> int:
    """The head's size; hidden size / heads in the largest model, which has so many layers."""
    size = keys.integer("embedding_length") // keys.integer("attention.head_count")
    if keys.integer("block_count") == largest:
        return size
    return keys.integer("attention.key_length", size)
