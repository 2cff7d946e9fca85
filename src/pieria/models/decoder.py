"""A decoder-only transformer from its `ModelConfig`: the one forward pass that serves, trains and
is planned.

Knows layers in order. Does not know families, files, pages or devices.
"""

import torch
from torch import Tensor, nn

from pieria import ops
from pieria.models.cache_spec import CacheSpec
from pieria.models.config import ModelConfig
from pieria.models.context import Context
from pieria.models.layer import Layer
from pieria.models.parts import Embedding, Linear, Logical, Module, Norm, Part
from pieria.models.rope import frequencies
from pieria.parallel.mesh import Mesh
from pieria.parallel.shard import vocabulary


class Decoder(Part):
    """Tokens to hidden states to logits, on this rank's part of the weights.

    Built on the meta device; a loader gives the parameters data. ValueError, naming the weight, if
    a cut over `mesh` does not divide.
    """

    def __init__(self, config: ModelConfig, mesh: Mesh, dtype: torch.dtype) -> None:
        super().__init__()
        self.config = config
        self.mesh = mesh
        self.dtype = dtype
        self.embed = Embedding("embed", config.vocabulary, config.hidden, mesh, dtype)
        self.layers = nn.ModuleList(
            Layer(i, config.hidden, layer, mesh, dtype) for i, layer in enumerate(config.layers)
        )
        self.norm = Norm("norm", config.hidden, config.norm, mesh, dtype)
        if not config.tied:
            self.head = Linear(
                "head", config.hidden, config.vocabulary, False, vocabulary(), mesh, dtype
            )
        found = dict.fromkeys(layer.mixer.rope for layer in config.layers)
        self.ropes = tuple(rope for rope in found if rope is not None)
        for i, rope in enumerate(self.ropes):
            self.register_buffer(f"frequencies_{i}", frequencies(rope), persistent=False)

    def forward(self, tokens_T: Tensor, context: Context) -> Tensor:
        """Hidden states [T, D] after the final norm."""
        angles = {
            rope: ops.rotary(context.positions_T, getattr(self, f"frequencies_{i}"), rope.magnitude)
            for i, rope in enumerate(self.ropes)
        }
        x_TD = self.embed(tokens_T)
        if self.config.embed_scale is not None:
            # Rounded to the weights' dtype first, as the models that scale were trained.
            x_TD = x_TD * torch.tensor(self.config.embed_scale, dtype=self.dtype)
        for layer in self.layers:
            x_TD = layer(x_TD, context, angles)
        return self.norm(x_TD)

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """Logits [R, V] of the whole vocabulary, in the model's dtype."""
        if self.config.tied:
            logits_RV = self.embed.logits(hidden_RD)
        else:
            logits_RV = ops.all_gather(self.head(hidden_RD), self.mesh.group("tp"))
        cap = self.config.logit_soft_cap
        return logits_RV if cap is None else torch.tanh(logits_RV / cap) * cap

    def logical(self) -> dict[str, Logical]:
        """Every weight by its name here, as the whole model has it."""
        return {
            f"{module.path}.{name}": logical
            for module in self.modules()
            if isinstance(module, Module)
            for name, logical in module.logical.items()
        }

    def cache_specs(self, dtype: torch.dtype | None = None) -> tuple[CacheSpec, ...]:
        """What each layer remembers on this rank; `dtype` of keys and values, default the model's."""
        return tuple(layer.mixer.cache_spec(dtype or self.dtype) for layer in self.layers)
