"""The gated feed-forward network as a module."""

import torch
from torch import Tensor

from pieria import ops
from pieria.models.config import MlpConfig
from pieria.models.parts import Linear, Part
from pieria.parallel.mesh import Mesh
from pieria.parallel.shard import column, row


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
        return self.down(self._hidden(x_TD))

    def partial(self, x_TD: Tensor) -> Tensor:
        """This rank's part of a sum over tp, which the caller makes; without biases only."""
        assert not self.config.bias
        return self.down.product(self._hidden(x_TD))

    def _hidden(self, x_TD: Tensor) -> Tensor:
        gate, up = self.gate, self.up
        return ops.gated_linear(
            x_TD, gate.weight, up.weight, gate.bias, up.bias, self.config.activation
        )
