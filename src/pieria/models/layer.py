"""One layer of a decoder: a mixer over tokens and a network on each, with norms and residuals.

A kind of mixer or network is a config class in `config.py`, a module, and a line in a table here.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pieria.models.attention import Attention
from pieria.models.config import (
    AttentionConfig,
    DeltaConfig,
    FeedForwardConfig,
    LatentConfig,
    LayerConfig,
    MlpConfig,
    MoeConfig,
)
from pieria.models.context import Context
from pieria.models.delta import Delta
from pieria.models.feed_forward import FeedForward
from pieria.models.latent import Latent
from pieria.models.mlp import Mlp
from pieria.models.moe import Moe
from pieria.models.parts import Angles, Norm, Part
from pieria.parallel.mesh import Mesh

MIXERS: dict[type, Callable[..., Any]] = {
    AttentionConfig: Attention,
    LatentConfig: Latent,
    DeltaConfig: Delta,
}
"""Config -> module made from (path, layer, hidden, config, mesh, dtype), with `cache_spec`."""

NETWORKS: dict[type, Callable[..., Part]] = {
    MlpConfig: Mlp,
    FeedForwardConfig: FeedForward,
    MoeConfig: Moe,
}
"""Config -> module made from (path, hidden, config, mesh, dtype)."""


class Layer(nn.Module):
    """x += mixer(norm(x)); x += mlp(norm(x)).

    With post_norms, what mixer and network give is normed before it is added. With norms_last:
    x = norm(x + mixer(x)); x = norm(x + mlp(x)).
    """

    def __init__(
        self, index: int, hidden: int, config: LayerConfig, mesh: Mesh, dtype: torch.dtype
    ) -> None:
        super().__init__()
        path = f"layers.{index}"
        norm = config.norm
        mixer, network = MIXERS[type(config.mixer)], NETWORKS[type(config.mlp)]
        self.post_norms, self.norms_last = config.post_norms, config.norms_last
        self.mixer_norm = Norm(f"{path}.mixer_norm", hidden, norm, mesh, dtype)
        self.mixer = mixer(f"{path}.mixer", index, hidden, config.mixer, mesh, dtype)
        self.mlp_norm = Norm(f"{path}.mlp_norm", hidden, norm, mesh, dtype)
        self.mlp = network(f"{path}.mlp", hidden, config.mlp, mesh, dtype)
        if config.post_norms:
            self.mixer_post_norm = Norm(f"{path}.mixer_post_norm", hidden, norm, mesh, dtype)
            self.mlp_post_norm = Norm(f"{path}.mlp_post_norm", hidden, norm, mesh, dtype)

    def forward(
        self, x_TD: Tensor, y_TD: Tensor | None, context: Context, angles: Angles
    ) -> tuple[Tensor, Tensor | None]:
        """From (x, y) to the next layer's: the stream is x + y, and y what was last made for it.

        Whoever norms the sum also adds. None: nothing is to be added.
        """
        if self.norms_last:
            _, x_TD = self.mixer_norm.added(x_TD, self.mixer(x_TD, context, angles))
            return self.mlp_norm.added(x_TD, self.mlp(x_TD))[1], None
        if y_TD is None:
            n_TD = self.mixer_norm(x_TD)
        else:
            x_TD, n_TD = self.mixer_norm.added(x_TD, y_TD)
        y_TD = self.mixer(n_TD, context, angles)
        x_TD, n_TD = self.mlp_norm.added(
            x_TD, self.mixer_post_norm(y_TD) if self.post_norms else y_TD
        )
        y_TD = self.mlp(n_TD)
        return x_TD, self.mlp_post_norm(y_TD) if self.post_norms else y_TD
