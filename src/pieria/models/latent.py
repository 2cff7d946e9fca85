"""Multi-head latent attention as a module (DeepSeek-V2, arXiv:2405.04434, section 2.1).

It is absorbed: queries are taken to the latents, and what is read there to values; keys are never
expanded.

C dimensions of a latent, P rotary ones beside it, L = C + P; N and V of a head's other query and
of its value; S = N + P. Else letters as in `parts`.
"""

import torch
from torch import Tensor

from pieria import ops
from pieria.models.cache_spec import CacheSpec, held
from pieria.models.config import LatentConfig
from pieria.models.context import Context
from pieria.models.parts import Angles, Linear, Module, Norm, Part
from pieria.ops import Weight
from pieria.parallel.mesh import Mesh
from pieria.parallel.shard import REPLICATED, column, row


class Heads(Module):
    """A matrix of each head, from latents to its keys and values [H (N + V), C]. Cut by heads."""

    why_dense = "scales of groups of its inputs cannot leave sums over its outputs, as queries make"

    def __init__(self, path: str, config: LatentConfig, mesh: Mesh, dtype: torch.dtype) -> None:
        super().__init__(path, mesh, dtype)
        self.config = config
        size = config.nope_dim + config.v_dim
        shape = (config.heads * size, config.kv_rank)
        self.weight = self.declare("weight", shape, column(size))
        self._packed: tuple[Tensor | Weight, Tensor | Weight] | None = None

    def matrices(self) -> tuple[Tensor | Weight, Tensor | Weight]:
        """From queries to latents [H, C, N], and from latents to values [H, V, C]."""
        if self._packed is not None:
            return self._packed
        sizes = [self.config.nope_dim, self.config.v_dim]
        kv_HXC = self.weight.view(-1, sum(sizes), self.config.kv_rank)
        k_HNC, v_HVC = torch.split(kv_HXC, sizes, 1)
        return k_HNC.transpose(1, 2), v_HVC

    def pack(self) -> None:
        query_HCN, value_HVC = (ops.head_linear.pack(m) for m in self.matrices())
        if isinstance(query_HCN, Weight) and isinstance(value_HVC, Weight):
            self._packed = query_HCN, value_HVC
            del self.weight


class Latent(Part):
    """Attention of H query heads over one latent a token. Cut by heads; every rank has the latents.

    A head's score is q_N . (W_NC c_C) = (W_NC^T q_N) . c_C, and its output W_VC (sum of c_C).
    """

    def __init__(
        self,
        path: str,
        index: int,
        hidden: int,
        config: LatentConfig,
        mesh: Mesh,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.index = index
        self.config = config
        heads, rank, turning = config.heads, config.kv_rank, config.rope.dim
        q_size = config.nope_dim + turning
        q = heads * q_size, False, column(q_size), mesh, dtype
        if config.q_rank is None:
            self.q = Linear(f"{path}.q", hidden, *q)
        else:
            self.q_a = Linear(
                f"{path}.q_a", hidden, config.q_rank, config.bias, REPLICATED, mesh, dtype
            )
            self.q_a_norm = Norm(f"{path}.q_a_norm", config.q_rank, config.norm, mesh, dtype)
            self.q_b = Linear(f"{path}.q_b", config.q_rank, *q)
        self.kv_a = Linear(
            f"{path}.kv_a", hidden, rank + turning, config.bias, REPLICATED, mesh, dtype
        )
        self.kv_a_norm = Norm(f"{path}.kv_a_norm", rank, config.norm, mesh, dtype)
        self.kv_b = Heads(f"{path}.kv_b", config, mesh, dtype)
        self.o = Linear(
            f"{path}.o", heads * config.v_dim, hidden, config.bias, row(config.v_dim), mesh, dtype
        )

    def forward(self, x_TD: Tensor, context: Context, angles: Angles) -> Tensor:
        config = self.config
        nope, rank, turning = config.nope_dim, config.kv_rank, config.rope.dim
        q_TX = self.q(x_TD) if config.q_rank is None else self.q_b(self.q_a_norm(self.q_a(x_TD)))
        q_THS = q_TX.view(len(x_TD), -1, nope + turning)
        q_THN, q_THP = torch.split(q_THS, [nope, turning], -1)
        c_TC, k_TP = torch.split(self.kv_a(x_TD), [rank, turning], -1)
        cos_TR, sin_TR = angles[config.rope]
        q_THP = ops.rope(q_THP, cos_TR, sin_TR, config.rope.interleaved)
        k_T1P = ops.rope(k_TP[:, None], cos_TR, sin_TR, config.rope.interleaved)
        query_HCN, value_HVC = self.kv_b.matrices()
        q_THC, c_TC = ops.head_linear(q_THN, query_HCN), self.kv_a_norm(c_TC)
        y_THC = context.attend_latents(self.index, q_THC, q_THP, c_TC, k_T1P[:, 0], config)
        return self.o(ops.head_linear(y_THC, value_HVC).flatten(1))

    def cache_spec(self, dtype: torch.dtype) -> CacheSpec:
        """The normed latent and the turned key beside it, kept in `dtype`."""
        size = self.config.kv_rank + self.config.rope.dim
        return CacheSpec(held(("latent",), (size,), dtype))
