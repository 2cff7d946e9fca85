"""The feed-forward network without a gate as a module (Vaswani et al. 2017, arXiv:1706.03762)."""

import torch
from torch import Tensor

from pieria import ops
from pieria.models.config import FeedForwardConfig
from pieria.models.parts import Linear, Part
from pieria.parallel.mesh import Mesh
from pieria.parallel.shard import column, row


class FeedForward(Part):
    """down(gelu(up(x))). Cut by feed-forward rows."""

    def __init__(
        self, path: str, hidden: int, config: FeedForwardConfig, mesh: Mesh, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.config = config
        self.up = Linear(f"{path}.up", hidden, config.size, True, column(), mesh, dtype)
        self.down = Linear(f"{path}.down", config.size, hidden, True, row(), mesh, dtype)

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.down(ops.gelu(self.up(x_TD), self.config.tanh))
