"""A mixture of experts as a module.

E experts of which this rank has some, F features inside an expert, A experts of a token; else
letters as in `parts`.
"""

import torch
from torch import Tensor

from pieria import ops
from pieria.models.config import MoeConfig
from pieria.models.mlp import Mlp
from pieria.models.parts import Linear, Module, Part, replace
from pieria.ops import Weight
from pieria.parallel.mesh import Mesh
from pieria.parallel.shard import REPLICATED, expert


class Router(Module):
    """Weights and experts of each token; the same on every rank.

    In float32 or wider: in bfloat16 close experts would change places.
    """

    def __init__(
        self, path: str, hidden: int, config: MoeConfig, mesh: Mesh, dtype: torch.dtype
    ) -> None:
        super().__init__(path, mesh, torch.float64 if dtype == torch.float64 else torch.float32)
        self.config = config
        shape = (config.experts,)
        self.weight: Tensor | Weight = self.declare("weight", (*shape, hidden), REPLICATED)
        self.bias = self.declare("bias", shape, REPLICATED) if config.router_bias else None
        self.selection_bias = (
            self.declare("selection_bias", shape, REPLICATED) if config.selection_bias else None
        )

    def pack(self) -> None:
        replace(self, "weight", ops.linear.pack(self.weight))

    def route(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """(weights_TA, experts_TA)."""
        config = self.config
        return ops.route(
            ops.linear(ops.cast(x_TD, self.dtype), self.weight, self.bias),
            self.selection_bias,
            top=config.top,
            score=config.score,
            renormalise=config.renormalise,
            scale=config.scale,
            groups=config.groups,
            top_groups=config.top_groups,
            group_score=config.group_score,
        )


class Stack(Module):
    """A matrix of each expert [E, O, I], cut by experts, and over tp by dimension `dim`.

    A bias is cut as the outputs are.
    """

    quantizable = True

    def __init__(
        self,
        path: str,
        shape: tuple[int, int, int],
        dim: int,
        bias: bool,
        mesh: Mesh,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(path, mesh, dtype)
        self.weight: Tensor | Weight = self.declare("weight", shape, expert(dim))
        bias_shard = expert(1 if dim == 1 else None)
        self.bias = self.declare("bias", shape[:2], bias_shard) if bias else None

    def pack(self) -> None:
        replace(self, "weight", ops.experts.pack(self.weight))


class Experts(Part):
    """This rank's experts, or its part of each: what it gives is to be summed over ep and tp."""

    def __init__(
        self, path: str, hidden: int, config: MoeConfig, mesh: Mesh, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.config = config
        into = (config.experts, config.size, hidden)
        out = (config.experts, hidden, config.size)
        self.gate = Stack(f"{path}.gate", into, 1, config.bias, mesh, dtype)
        self.up = Stack(f"{path}.up", into, 1, config.bias, mesh, dtype)
        self.down = Stack(f"{path}.down", out, 2, config.bias, mesh, dtype)
        self.first = mesh.group("ep").index * len(self.gate.weight)
        # Of the ranks that have a part of the same experts, one adds the output's bias.
        self.adds_bias = mesh.group("tp").index == 0

    def forward(self, x_TD: Tensor, weights_TA: Tensor, experts_TA: Tensor) -> Tensor:
        return ops.experts(
            x_TD,
            weights_TA,
            experts_TA,
            self.gate.weight,
            self.up.weight,
            self.down.weight,
            self.gate.bias,
            self.up.bias,
            self.down.bias if self.adds_bias else None,
            activation=self.config.activation,
            limit=self.config.limit,
            slope=self.config.slope,
            first=self.first,
            total=self.config.experts,
        )


class Moe(Part):
    """The chosen experts' sum, plus what the shared network gives. Cut by experts and features."""

    def __init__(
        self, path: str, hidden: int, config: MoeConfig, mesh: Mesh, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.config = config
        self.groups = mesh.group("tp"), mesh.group("ep")
        self.router = Router(f"{path}.router", hidden, config, mesh, dtype)
        self.experts = Experts(f"{path}.experts", hidden, config, mesh, dtype)
        if config.shared is not None:
            self.shared = Mlp(f"{path}.shared", hidden, config.shared, mesh, dtype)
        if config.shared_gate:
            self.shared_gate = Linear(
                f"{path}.shared_gate", hidden, 1, False, REPLICATED, mesh, dtype
            )

    def forward(self, x_TD: Tensor) -> Tensor:
        tp, ep = self.groups
        y_TD = self.experts(x_TD, *self.router.route(x_TD))
        # Every rank of ep has the same shared network, and one adds it.
        if self.config.shared is not None and ep.index == 0:
            shared_TD = self.shared.partial(x_TD)
            if self.config.shared_gate:
                shared_TD = ops.sigmoid_gate(shared_TD, self.shared_gate(x_TD))
            y_TD = ops.add(y_TD, shared_TD)
        return ops.all_reduce(ops.all_reduce(y_TD, tp), ep)
