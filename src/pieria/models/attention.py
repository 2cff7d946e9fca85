"""Grouped-query attention as a module."""

import torch
from torch import Tensor

from pieria import ops
from pieria.models.cache_spec import CacheSpec, held
from pieria.models.config import AttentionConfig
from pieria.models.context import Context
from pieria.models.parts import Angles, Linear, Module, Norm, Part, products
from pieria.parallel.mesh import Mesh
from pieria.parallel.shard import column, row


class Sinks(Module):
    """A score of each head, beside those of its keys. Cut by heads."""

    def __init__(self, path: str, heads: int, mesh: Mesh, dtype: torch.dtype) -> None:
        super().__init__(path, mesh, dtype)
        self.weight = self.declare("weight", (heads,), column())


class Attention(Part):
    """Attention of H query heads over G key heads of K dimensions. Cut by heads."""

    def __init__(
        self,
        path: str,
        index: int,
        hidden: int,
        config: AttentionConfig,
        mesh: Mesh,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.index = index
        self.config = config
        self.mesh = mesh
        size = config.head_dim
        heads, kv_heads, bias = config.heads * size, config.kv_heads * size, config.qkv_bias
        self.q = Linear(f"{path}.q", hidden, heads, bias, column(size), mesh, dtype)
        self.k = Linear(f"{path}.k", hidden, kv_heads, bias, column(size), mesh, dtype)
        self.v = Linear(f"{path}.v", hidden, kv_heads, bias, column(size), mesh, dtype)
        self.o = Linear(f"{path}.o", heads, hidden, config.out_bias, row(size), mesh, dtype)
        if config.qk_norm is not None:
            self.q_norm = Norm(f"{path}.q_norm", size, config.qk_norm, mesh, dtype)
            self.k_norm = Norm(f"{path}.k_norm", size, config.qk_norm, mesh, dtype)
        if config.gated:
            self.gate = Linear(f"{path}.gate", hidden, heads, bias, column(size), mesh, dtype)
        if config.sinks:
            self.sinks = Sinks(f"{path}.sinks", config.heads, mesh, dtype)

    def forward(self, x_TD: Tensor, context: Context, angles: Angles) -> Tensor:
        size = self.config.head_dim
        gate = (self.gate,) if self.config.gated else ()
        made = products(x_TD, self.q, self.k, self.v, *gate)
        q_THK, k_TGK, v_TGK = (y_TX.view(len(x_TD), -1, size) for y_TX in made[:3])
        if self.config.qk_norm is not None:
            q_THK, k_TGK = self.q_norm(q_THK), self.k_norm(k_TGK)
        if self.config.rope is not None:
            cos_TR, sin_TR = angles[self.config.rope]
            interleaved = self.config.rope.interleaved
            q_THK = ops.rope(q_THK, cos_TR, sin_TR, interleaved)
            k_TGK = ops.rope(k_TGK, cos_TR, sin_TR, interleaved)
        sinks_H = self.sinks.weight if self.config.sinks else None
        y_THK = context.attend(self.index, q_THK, k_TGK, v_TGK, self.config, sinks_H)
        y_TX = y_THK.flatten(1)
        return self.o(ops.sigmoid_gate(y_TX, made[3]) if self.config.gated else y_TX)

    def cache_spec(self, dtype: torch.dtype) -> CacheSpec:
        """Keys and values of this rank's heads, kept in `dtype`."""
        shape = (self.config.kv_heads // self.mesh.tp, self.config.head_dim)
        return CacheSpec(held(("k", "v"), shape, dtype), self.config.window)
