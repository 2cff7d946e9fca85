"""Tensors of the delta rule in GGUF files in the order and form that they have elsewhere. Knows
their names and layout; reads through another `TensorFile`.

llama.cpp's converter orders heads so that those which share a key head stand apart (`tile`d), keeps
rates without their logarithm, and leaves out dimensions of length 1. Source: conversion/qwen.py of
llama.cpp. G key heads, H heads, K and V dimensions of a head's key and value.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pieria.models.checkpoint import TensorFile
from pieria.models.config import DeltaConfig, ModelConfig
from pieria.models.stored_tensor import NumberFormat
from pieria.ops import Weight

RATES, TAPS, SHARED_GATE = ".ssm_a", ".ssm_conv1d.weight", ".ffn_gate_inp_shexp.weight"
ALPHA = ".ssm_alpha.weight"
"""Files that keep it by itself have heads tiled."""


class GroupedHeads:
    """A file's tensors, those of the delta rule with heads that share a key head side by side."""

    def __init__(self, file: TensorFile, config: ModelConfig) -> None:
        self._file = file
        mixers = [layer.mixer for layer in config.layers]
        delta = next((m for m in mixers if isinstance(m, DeltaConfig)), None)
        self._groups = self._shared = 1
        self._heads: dict[str, tuple[int, int, int]] = {}
        if delta is None or not any(name.endswith(ALPHA) for name in file.names()):
            return
        self._groups, self._shared = delta.key_heads, delta.heads // delta.key_heads
        keys, size = 2 * delta.key_heads * delta.key_dim, delta.value_dim
        # The dimension along which heads lie, where the first begins, and how long each is.
        self._heads = {
            ".attn_qkv.weight": (0, keys, size),
            TAPS: (0, keys, size),
            ".attn_gate.weight": (0, 0, size),
            ".ssm_out.weight": (1, 0, size),
            **dict.fromkeys((ALPHA, ".ssm_beta.weight", RATES, ".ssm_dt.bias"), (0, 0, 1)),
        }

    def names(self) -> list[str]:
        return self._file.names()

    def shape(self, name: str) -> tuple[int, ...]:
        """With the dimensions of length 1."""
        shape = self._file.shape(name)
        if name.endswith(TAPS) and len(shape) == 2:
            return shape[0], 1, shape[1]
        if name.endswith(SHARED_GATE) and len(shape) == 1:
            return 1, *shape
        return shape

    def blocks(self, name: str) -> NumberFormat | None:
        """Not of what is put in order within an output."""
        turned = any(name.endswith(end) and dim for end, (dim, *_) in self._heads.items())
        return None if turned else self._file.blocks(name)

    def read_into(self, name: str, out: Tensor, first: Sequence[int] = ()) -> None:
        """As of any `TensorFile`; of heads, whole ones. ValueError for a rate not below 0."""
        begin, kept = list(first or (0,) * out.ndim), out
        if (missing := out.ndim - len(self._file.shape(name))) == 1:
            dim = 1 if name.endswith(TAPS) else 0
            kept = out.select(dim, 0)
            del begin[dim]
        assert missing in (0, 1)
        found = [heads for end, heads in self._heads.items() if name.endswith(end)]
        if not found or begin[found[0][0]] < found[0][1]:
            self._file.read_into(name, kept, begin)
        else:
            self._read_heads(name, kept, begin, *found[0])
        if name.endswith(RATES):
            if not (kept < 0).all():
                raise ValueError(f"tensor {name} holds rates that are not below 0")
            kept.copy_(torch.log(-kept))

    def held(
        self,
        name: str,
        shape: Sequence[int],
        first: Sequence[int],
        dtype: torch.dtype,
        turned: bool = False,
    ) -> Weight | None:
        """As of any `TensorFile`; of heads, and of rates, None."""
        if name.endswith((RATES, TAPS, SHARED_GATE, *self._heads)):
            return None
        return self._file.held(name, shape, first, dtype, turned)

    def _read_heads(
        self, name: str, out: Tensor, begin: list[int], dim: int, start: int, size: int
    ) -> None:
        first, rest = divmod(begin[dim] - start, size)
        assert not rest and out.shape[dim] % size == 0, "heads are not cut"
        for head, part in enumerate(torch.split(out, size, dim), first):
            tile = head % self._shared * self._groups + head // self._shared
            begin[dim] = start + tile * size
            self._file.read_into(name, part, begin)
