"""The parts a decoder is made of. Each weight says here, once, how it is cut over ranks.

Knows logical weights, their shards and the ops that use them. Does not know files, pages or
devices.

T tokens of the packed batch; D hidden; H query heads, G key heads, K head dimensions; F
feed-forward; V vocabulary; I inputs, O outputs of a linear. Sizes inside a module are those of this
rank.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pieria import ops
from pieria.models.config import AttentionConfig, LayerConfig, MlpConfig, NormConfig, Rope
from pieria.models.context import Context
from pieria.parallel.mesh import Mesh
from pieria.parallel.shard import REPLICATED, Shard, column, row, vocabulary

Angles = Mapping[Rope, tuple[Tensor, Tensor]]
"""cos_TR and sin_TR of each rope in the model, computed once a forward pass."""


@dataclass(frozen=True)
class Logical:
    """A weight as the whole model has it: its shape, and how it is cut."""

    shape: tuple[int, ...]
    shard: Shard


class Part(nn.Module):
    """A module whose call gives one tensor."""

    __call__: Callable[..., Tensor]


class Module(Part):
    """A module that declares its own weights; parameters have no data until a loader gives them
    some.

    path: the module's name in the model.
    """

    def __init__(self, path: str, mesh: Mesh, dtype: torch.dtype) -> None:
        super().__init__()
        self.path = path
        self.mesh = mesh
        self.dtype = dtype
        self.logical: dict[str, Logical] = {}

    def declare(self, name: str, shape: tuple[int, ...], shard: Shard) -> nn.Parameter:
        """This rank's part of a weight, to be assigned to attribute `name`.

        ValueError if the cut does not divide.
        """
        self.logical[name] = Logical(shape, shard)
        size = self.mesh.group(shard.axis).size if shard.axis else 1
        try:
            local = shard.local(shape, size)
        except ValueError as error:
            raise ValueError(f"{self.path}.{name}: {error}") from error
        return nn.Parameter(torch.empty(local, dtype=self.dtype, device="meta"))


class Linear(Module):
    """y_TO = x_TI W_OI^T + b_O. A row cut sums the ranks' products."""

    def __init__(
        self,
        path: str,
        inputs: int,
        outputs: int,
        bias: bool,
        shard: Shard,
        mesh: Mesh,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(path, mesh, dtype)
        self.summed = mesh.group("tp") if shard.dim == 1 else None
        self.weight = self.declare("weight", (outputs, inputs), shard)
        bias_shard = REPLICATED if self.summed else shard
        self.bias = self.declare("bias", (outputs,), bias_shard) if bias else None

    def forward(self, x_TI: Tensor) -> Tensor:
        if self.summed is None:
            return ops.linear(x_TI, self.weight, self.bias)
        y_TO = ops.all_reduce(ops.linear(x_TI, self.weight), self.summed)
        return y_TO if self.bias is None else y_TO + self.bias


class Norm(Module):
    """RMS norm over D."""

    def __init__(
        self, path: str, size: int, config: NormConfig, mesh: Mesh, dtype: torch.dtype
    ) -> None:
        super().__init__(path, mesh, dtype)
        self.config = config
        self.weight = self.declare("weight", (size,), REPLICATED)

    def forward(self, x_TD: Tensor) -> Tensor:
        return ops.rms_norm(x_TD, self.weight, self.config.eps, self.config.eps_outside)


class Embedding(Module):
    """Tokens to vectors, and vectors to logits where the two are tied."""

    def __init__(
        self, path: str, vocabulary_size: int, hidden: int, mesh: Mesh, dtype: torch.dtype
    ) -> None:
        super().__init__(path, mesh, dtype)
        self.group = mesh.group("tp")
        self.weight = self.declare("weight", (vocabulary_size, hidden), vocabulary())
        self.first = self.group.index * self.weight.shape[0]

    def forward(self, tokens_T: Tensor) -> Tensor:
        return ops.all_reduce(ops.embedding(tokens_T, self.weight, self.first), self.group)

    def logits(self, x_RD: Tensor) -> Tensor:
        return ops.all_gather(ops.linear(x_RD, self.weight), self.group)


class Attention(Part):
    """Grouped-query attention with rotary positions. Cut by heads."""

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
        size = config.head_dim
        heads, kv_heads, bias = config.heads * size, config.kv_heads * size, config.qkv_bias
        self.q = Linear(f"{path}.q", hidden, heads, bias, column(size), mesh, dtype)
        self.k = Linear(f"{path}.k", hidden, kv_heads, bias, column(size), mesh, dtype)
        self.v = Linear(f"{path}.v", hidden, kv_heads, bias, column(size), mesh, dtype)
        self.o = Linear(f"{path}.o", heads, hidden, config.out_bias, row(size), mesh, dtype)

    def forward(self, x_TD: Tensor, context: Context, angles: Angles) -> Tensor:
        size = self.config.head_dim
        q_THK = self.q(x_TD).view(len(x_TD), -1, size)
        k_TGK = self.k(x_TD).view(len(x_TD), -1, size)
        v_TGK = self.v(x_TD).view(len(x_TD), -1, size)
        cos_TR, sin_TR = angles[self.config.rope]
        q_THK = ops.rope(q_THK, cos_TR, sin_TR)
        k_TGK = ops.rope(k_TGK, cos_TR, sin_TR)
        y_THK = context.attend(self.index, q_THK, k_TGK, v_TGK, self.config)
        return self.o(y_THK.flatten(1))


class Mlp(Part):
    """down(activation(gate(x)) * up(x)). Cut by feed-forward rows."""

    def __init__(
        self, path: str, hidden: int, config: MlpConfig, mesh: Mesh, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.config = config
        size, bias = config.size, config.bias
        self.gate = Linear(f"{path}.gate", hidden, size, bias, column(), mesh, dtype)
        self.up = Linear(f"{path}.up", hidden, size, bias, column(), mesh, dtype)
        self.down = Linear(f"{path}.down", size, hidden, bias, row(), mesh, dtype)

    def forward(self, x_TD: Tensor) -> Tensor:
        gate_TF, up_TF = self.gate(x_TD), self.up(x_TD)
        if self.config.activation == "silu":
            return self.down(ops.swiglu(gate_TF, up_TF))
        return self.down(ops.geglu(gate_TF, up_TF, self.config.activation == "gelu_tanh"))


class Layer(Part):
    """x += attention(norm(x)); x += mlp(norm(x))."""

    def __init__(
        self, index: int, hidden: int, config: LayerConfig, mesh: Mesh, dtype: torch.dtype
    ) -> None:
        super().__init__()
        path = f"layers.{index}"
        attention = f"{path}.attention"
        self.attention_norm = Norm(f"{path}.attention_norm", hidden, config.norm, mesh, dtype)
        self.attention = Attention(attention, index, hidden, config.attention, mesh, dtype)
        self.mlp_norm = Norm(f"{path}.mlp_norm", hidden, config.norm, mesh, dtype)
        self.mlp = Mlp(f"{path}.mlp", hidden, config.mlp, mesh, dtype)

    def forward(self, x_TD: Tensor, context: Context, angles: Angles) -> Tensor:
        x_TD = x_TD + self.attention(self.attention_norm(x_TD), context, angles)
        return x_TD + self.mlp(self.mlp_norm(x_TD))
