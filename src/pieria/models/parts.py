"""The smallest parts of a model: modules with weights of their own, each saying how it is cut.

Knows logical weights, their shards and the ops that use them. Does not know files, pages or
devices.

T tokens of the packed batch; D hidden; H query heads, G key heads, K head dimensions; F
feed-forward; V vocabulary; I inputs, O outputs of a linear. Sizes inside a module are those of this
rank.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from pieria import ops
from pieria.models.config import NormConfig, Rope
from pieria.ops import Weight
from pieria.parallel.mesh import Mesh
from pieria.parallel.shard import REPLICATED, Shard, vocabulary

MAX_ELEMENTS = 2**48

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

    quantizable = False
    """Whether `weight` may be held in fewer bits."""

    why_dense: str | None = None
    """Of a large matrix that may not: why."""

    def __init__(self, path: str, mesh: Mesh, dtype: torch.dtype) -> None:
        super().__init__()
        self.path = path
        self.mesh = mesh
        self.dtype = dtype
        self.logical: dict[str, Logical] = {}

    def pack(self) -> None:
        """Hold weights as the kernels want them; nothing is trained or saved after that."""

    def declare(self, name: str, shape: tuple[int, ...], shard: Shard) -> nn.Parameter:
        """This rank's part of a weight, to be assigned to attribute `name`.

        ValueError if the cut does not divide, or if there are more elements than could be.
        """
        if prod(shape) > MAX_ELEMENTS:
            raise ValueError(f"{self.path}.{name}: there can be no weight of shape {shape}")
        self.logical[name] = Logical(shape, shard)
        try:
            local = shard.local(shape, self.mesh)
        except ValueError as error:
            raise ValueError(f"{self.path}.{name}: {error}") from error
        return nn.Parameter(torch.empty(local, dtype=self.dtype, device="meta"))


class Linear(Module):
    """y_TO = x_TI W_OI^T + b_O. A row cut sums the ranks' products."""

    quantizable = True

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
        group = mesh.group("tp")
        self.summed = group if shard.kind == "row" and group.size > 1 else None
        self.weight: Tensor | Weight = self.declare("weight", (outputs, inputs), shard)
        bias_shard = REPLICATED if shard.kind == "row" else shard
        self.bias = self.declare("bias", (outputs,), bias_shard) if bias else None

    def forward(self, x_TI: Tensor) -> Tensor:
        if self.summed is None:
            return ops.linear(x_TI, self.weight, self.bias)
        y_TO = ops.all_reduce(self.product(x_TI), self.summed)
        return y_TO if self.bias is None else ops.add(y_TO, self.bias)

    def product(self, x_TI: Tensor) -> Tensor:
        """Without bias, and of a row cut this rank's part of the sum."""
        return ops.linear(x_TI, self.weight)

    def pack(self) -> None:
        replace(self, "weight", ops.linear.pack(self.weight))


def products(x_TI: Tensor, *linears: Linear) -> tuple[Tensor, ...]:
    """What each of them, none cut by rows, makes of the same x."""
    assert not any(linear.summed for linear in linears), "a sum over ranks is to be made"
    weights = tuple(linear.weight for linear in linears)
    return ops.linears(x_TI, weights, tuple(linear.bias for linear in linears))


def replace(module: Module, name: str, weight: Tensor | Weight) -> None:
    """Hold this instead of a parameter."""
    if isinstance(weight, Weight):
        delattr(module, name)
        setattr(module, name, weight)


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

    def added(self, x_TD: Tensor, y_TD: Tensor) -> tuple[Tensor, Tensor]:
        """x + y, and its norm."""
        if self.bias is not None:
            sum_TD = ops.add(x_TD, y_TD)
            return sum_TD, self(sum_TD)
        config = self.config
        return ops.add_rms_norm(
            x_TD, y_TD, self.weight, config.eps, config.eps_outside, config.offset
        )


class Table(Module):
    """A vector for each of some numbers, on every rank."""

    def __init__(self, path: str, rows: int, hidden: int, mesh: Mesh, dtype: torch.dtype) -> None:
        super().__init__(path, mesh, dtype)
        self.weight = self.declare("weight", (rows, hidden), REPLICATED)

    def forward(self, rows_T: Tensor) -> Tensor:
        return ops.embedding(rows_T, self.weight)


class Embedding(Module):
    """Tokens to vectors, times `scale`, and vectors to logits where the two are tied."""

    quantizable = True

    def __init__(
        self,
        path: str,
        vocabulary_size: int,
        hidden: int,
        scale: float | None,
        mesh: Mesh,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(path, mesh, dtype)
        self.group = mesh.group("tp")
        self.scale = scale
        self.weight: Tensor | Weight = self.declare(
            "weight", (vocabulary_size, hidden), vocabulary()
        )
        self.first = self.group.index * self.weight.shape[0]

    def forward(self, tokens_T: Tensor) -> Tensor:
        x_TD = ops.embedding(tokens_T, self.weight, self.first, self.scale)
        return ops.all_reduce(x_TD, self.group)

    def logits(self, x_RD: Tensor) -> Tensor:
        return ops.all_gather(ops.linear(x_RD, self.weight), self.group)

    def pack(self) -> None:
        replace(self, "weight", ops.linear.pack(self.weight))
