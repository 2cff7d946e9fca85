"""The gated delta rule as a module (Yang et al. 2024, arXiv:2412.06464), as Qwen3-Next has it.

Its parts are called otherwise than those of attention, beside which files keep them.
T tokens, D hidden; G key heads, H heads, K and V dimensions of a head's key and value; C channels
of a short convolution over W tokens, X of them in one part of what it makes.
"""

import torch
from torch import Tensor

from pieria import ops
from pieria.models.cache_spec import Array, CacheSpec
from pieria.models.config import DeltaConfig
from pieria.models.context import Context
from pieria.models.parts import Angles, Linear, Module, Norm, Part, products
from pieria.parallel.mesh import Mesh
from pieria.parallel.shard import column, row


class Taps(Module):
    """What a channel's last tokens are weighed with [C, 1, W]. Cut by heads."""

    def __init__(
        self, path: str, heads: int, size: int, taps: int, mesh: Mesh, dtype: torch.dtype
    ) -> None:
        super().__init__(path, mesh, dtype)
        self.weight = self.declare("weight", (heads * size, 1, taps), column(size))


class Rates(Module):
    """How fast each head forgets. Cut by heads; `dtype` is float32 or wider."""

    def __init__(self, path: str, heads: int, shared: int, mesh: Mesh, dtype: torch.dtype) -> None:
        super().__init__(path, mesh, dtype)
        self.log = self.declare("log", (heads,), column(shared))
        self.bias = self.declare("bias", (heads,), column(shared))


class Delta(Part):
    """H heads that keep a matrix of each request. Cut by key heads, with the heads they serve."""

    def __init__(
        self,
        path: str,
        index: int,
        hidden: int,
        config: DeltaConfig,
        mesh: Mesh,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.index = index
        self.config = config
        self.mesh = mesh
        self.dtype = dtype
        self.wide = torch.float64 if dtype == torch.float64 else torch.float32
        heads, groups, taps = config.heads, config.key_heads, config.taps
        shared = heads // groups
        keys, values = groups * config.key_dim, heads * config.value_dim
        by_key, by_value = column(config.key_dim), column(shared * config.value_dim)
        self.query = Linear(f"{path}.query", hidden, keys, False, by_key, mesh, dtype)
        self.key = Linear(f"{path}.key", hidden, keys, False, by_key, mesh, dtype)
        self.value = Linear(f"{path}.value", hidden, values, False, by_value, mesh, dtype)
        self.z = Linear(f"{path}.z", hidden, values, False, by_value, mesh, dtype)
        self.beta = Linear(f"{path}.beta", hidden, heads, False, column(shared), mesh, dtype)
        self.decay = Linear(f"{path}.decay", hidden, heads, False, column(shared), mesh, dtype)
        size = shared * config.value_dim
        self.query_taps = Taps(f"{path}.query_taps", groups, config.key_dim, taps, mesh, dtype)
        self.key_taps = Taps(f"{path}.key_taps", groups, config.key_dim, taps, mesh, dtype)
        self.value_taps = Taps(f"{path}.value_taps", groups, size, taps, mesh, dtype)
        self.rates = Rates(f"{path}.rates", heads, shared, mesh, self.wide)
        self.norm = Norm(f"{path}.norm", config.value_dim, config.norm, mesh, dtype)
        self.out = Linear(f"{path}.out", values, hidden, False, row(size), mesh, dtype)

    def forward(self, x_TD: Tensor, context: Context, angles: Angles) -> Tensor:
        (*before, state_SHKV), slots = context.states(self.index, self._state)
        linears = self.query, self.key, self.value, self.z, self.decay, self.beta
        *made, z_TX, decay_TH, beta_TH = products(x_TD, *linears)
        taps = (
            part.weight.flatten(1) for part in (self.query_taps, self.key_taps, self.value_taps)
        )
        q_TX, k_TX, v_TX = (
            ops.causal_conv(x_TC, taps_CW, before_SPC, slots)
            for x_TC, taps_CW, before_SPC in zip(made, taps, before, strict=True)
        )
        y_THV = ops.gated_delta(
            self._heads(q_TX, self.config.key_dim),
            self._heads(k_TX, self.config.key_dim),
            self._heads(v_TX, self.config.value_dim),
            *ops.delta_gates(decay_TH, beta_TH, self.rates.log, self.rates.bias),
            state_SHKV,
            slots,
            scale=self.config.key_dim**-0.5,
        )
        z_THV = self._heads(z_TX, self.config.value_dim)
        return self.out(ops.swiglu(z_THV, self.norm(y_THV)).flatten(1))

    def cache_spec(self, dtype: torch.dtype) -> CacheSpec:
        """What the convolutions and the heads remember, in dtypes of their own: of a state every
        later token is made, so it is not rounded to that of keys and values.
        """
        return CacheSpec(state=self._state)

    @property
    def _state(self) -> tuple[Array, ...]:
        """This rank's part."""
        config, ranks = self.config, self.mesh.tp
        heads, groups = config.heads // ranks, config.key_heads // ranks
        before, keys = config.taps - 1, groups * config.key_dim
        return (
            Array("query_before", (before, keys), self.dtype),
            Array("key_before", (before, keys), self.dtype),
            Array("value_before", (before, heads * config.value_dim), self.dtype),
            Array("state", (heads, config.key_dim, config.value_dim), self.wide),
        )

    def _heads(self, x_TX: Tensor, size: int) -> Tensor:
        return x_TX.view(len(x_TX), -1, size)
