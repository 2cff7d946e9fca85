"""The gated delta rule as a module (Yang et al. 2024, arXiv:2412.06464), as Qwen3-Next has it.

Its parts are called otherwise than those of attention, beside which files keep them.
T tokens, D hidden; G key heads, H heads, K and V dimensions of a head's key and value; C channels
of the short convolution over queries, keys and values, S slots of states.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pieria import ops
from pieria.models.cache_spec import Array, CacheSpec
from pieria.models.config import DeltaConfig
from pieria.models.context import Context
from pieria.models.parts import Angles, Linear, Module, Norm, Part
from pieria.parallel.mesh import Mesh
from pieria.parallel.shard import column, row


class Taps(Module):
    """What a channel's last tokens are weighed with [C, 1, tokens]. Cut by heads."""

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

    def decay(self, x_TH: Tensor) -> Tensor:
        """-exp(log_H) softplus(x_TH + bias_H): a token's logarithm of what is kept."""
        return -self.log.exp() * F.softplus(x_TH.to(self.dtype) + self.bias)


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
        (before_SPC, state_SHKV), slots = context.states(self.index, self._state)
        x_TC = torch.cat([self.query(x_TD), self.key(x_TD), self.value(x_TD)], -1)
        taps = self.query_taps, self.key_taps, self.value_taps
        taps_CW = torch.cat([part.weight for part in taps]).flatten(1)
        y_TC = ops.causal_conv(x_TC, taps_CW, before_SPC, slots)
        q_TX, k_TX, v_TX = torch.split(y_TC, [len(part.weight) for part in taps], -1)
        y_THV = ops.gated_delta(
            self._heads(q_TX, self.config.key_dim),
            self._heads(k_TX, self.config.key_dim),
            self._heads(v_TX, self.config.value_dim),
            self.rates.decay(self.decay(x_TD)),
            torch.sigmoid(self.beta(x_TD)),
            state_SHKV,
            slots,
            scale=self.config.key_dim**-0.5,
        )
        z_THV = self._heads(self.z(x_TD), self.config.value_dim)
        return self.out(ops.swiglu(z_THV, self.norm(y_THV)).flatten(1))

    def cache_spec(self, dtype: torch.dtype) -> CacheSpec:
        """What the convolution and the heads remember, in dtypes of their own: of a state every
        later token is made, so it is not rounded to that of keys and values.
        """
        return CacheSpec(state=self._state)

    @property
    def _state(self) -> tuple[Array, ...]:
        """This rank's part."""
        config, ranks = self.config, self.mesh.tp
        heads, groups = config.heads // ranks, config.key_heads // ranks
        channels = 2 * groups * config.key_dim + heads * config.value_dim
        return (
            Array("before", (config.taps - 1, channels), self.dtype),
            Array("state", (heads, config.key_dim, config.value_dim), self.wide),
        )

    def _heads(self, x_TX: Tensor, size: int) -> Tensor:
        return x_TX.view(len(x_TX), -1, size)
