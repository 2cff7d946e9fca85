"""The smallest parts of a model: modules with weights of their own, each saying how it is cut.

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
from pieria.models.config import NormConfig, Rope
from pieria.parallel.mesh import Mesh
from pieria.parallel.shard import REPLICATED, Shard, vocabulary

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
    """A module that declares its own weights, which have no data until a loader gives them some.

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
        try:
            local = shard.local(shape, self.mesh)
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
        self.summed = mesh.group("tp") if shard.kind == "row" else None
        self.weight = self.declare("weight", (outputs, inputs), shard)
        bias_shard = REPLICATED if self.summed else shard
        self.bias = self.declare("bias", (outputs,), bias_shard) if bias else None

    def forward(self, x_TI: Tensor) -> Tensor:
        if self.summed is None:
            return ops.linear(x_TI, self.weight, self.bias)
        y_TO = ops.all_reduce(self.product(x_TI), self.summed)
        return y_TO if self.bias is None else y_TO + self.bias

    def product(self, x_TI: Tensor) -> Tensor:
        """Without bias, and of a row cut this rank's part of the sum."""
        return ops.linear(x_TI, self.weight)


class Norm(Module):
    """RMS norm over D, or layer norm."""

    def __init__(
        self, path: str, size: int, config: NormConfig, mesh: Mesh, dtype: torch.dtype
    ) -> None:
        super().__init__(path, mesh, dtype)
        self.config = config
        self.weight = self.declare("weight", (size,), REPLICATED)
        self.bias = self.declare("bias", (size,), REPLICATED) if config.centered else None

    def forward(self, x_TD: Tensor) -> Tensor:
        if self.bias is not None:
            return ops.layer_norm(x_TD, self.weight, self.bias, self.config.eps)
        return ops.rms_norm(
            x_TD, self.weight, self.config.eps, self.config.eps_outside, self.config.offset
        )


class Table(Module):
    """A vector for each of some numbers, on every rank."""

    def __init__(self, path: str, rows: int, hidden: int, mesh: Mesh, dtype: torch.dtype) -> None:
        super().__init__(path, mesh, dtype)
        self.weight = self.declare("weight", (rows, hidden), REPLICATED)

    def forward(self, rows_T: Tensor) -> Tensor:
        return ops.embedding(rows_T, self.weight)


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
