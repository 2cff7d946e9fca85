"""A transformer from its `ModelConfig`: the one forward pass that serves, trains and is planned.

Knows layers in order. Does not know families, files, pages or devices.
"""

from typing import cast

import torch
from torch import Tensor, nn

from pieria import ops
from pieria.models.cache_spec import CacheSpec
from pieria.models.config import ModelConfig
from pieria.models.context import Context
from pieria.models.layer import Layer
from pieria.models.parts import Embedding, Linear, Logical, Module, Norm, Part, Table
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
        self.pipeline = mesh.group("pp")
        self.begins = self.pipeline.index == 0
        self.ends = self.pipeline.index == self.pipeline.size - 1
        if self.begins or (self.ends and config.tied):
            self.embed = Embedding(
                "embed", config.vocabulary, config.hidden, config.embed_scale, mesh, dtype
            )
        if self.begins and config.learned_positions:
            self.positions = Table("positions", config.context, config.hidden, mesh, dtype)
        if self.begins and config.token_types:
            self.types = Table("types", config.token_types, config.hidden, mesh, dtype)
        if self.begins and config.embed_norm is not None:
            self.embed_norm = Norm("embed_norm", config.hidden, config.embed_norm, mesh, dtype)
        # By number in the whole model; a pipeline stage has some of them.
        self.layers = nn.ModuleDict(
            {
                str(i): Layer(i, config.hidden, config.layers[i], mesh, dtype)
                for i in mesh.stage(len(config.layers))
            }
        )
        if self.ends and config.norm is not None:
            self.norm = Norm("norm", config.hidden, config.norm, mesh, dtype)
        if self.ends and config.generates and not config.tied:
            self.head = Linear(
                "head", config.hidden, config.vocabulary, False, vocabulary(), mesh, dtype
            )
        found = dict.fromkeys(layer.mixer.rope for layer in config.layers)
        self.ropes = tuple(rope for rope in found if rope is not None)
        for i, rope in enumerate(self.ropes):
            self.register_buffer(f"frequencies_{i}", frequencies(rope), persistent=False)

    def forward(self, tokens_T: Tensor, context: Context) -> Tensor:
        """Hidden states [T, D], normed; of this pipeline stage, and on the last those of all."""
        angles = {
            rope: ops.rotary(context.positions_T, getattr(self, f"frequencies_{i}"), rope.magnitude)
            for i, rope in enumerate(self.ropes)
        }
        if self.begins:
            x_TD = self._embedded(tokens_T, context)
        else:
            like = torch.empty(
                len(tokens_T), self.config.hidden, dtype=self.dtype, device=tokens_T.device
            )
            x_TD = ops.receive(like, self.pipeline)
        y_TD: Tensor | None = None
        for layer in self.layers.values():
            x_TD, y_TD = layer(x_TD, y_TD, context, angles)
        if self.ends and self.config.norm is not None:
            return self.norm(x_TD) if y_TD is None else self.norm.added(x_TD, y_TD)[1]
        x_TD = x_TD if y_TD is None else ops.add(x_TD, y_TD)
        return x_TD if self.ends else ops.send(x_TD, self.pipeline)

    def _embedded(self, tokens_T: Tensor, context: Context) -> Tensor:
        x_TD: Tensor = self.embed(tokens_T)
        if self.config.learned_positions:
            x_TD = ops.add(x_TD, self.positions(context.positions_T))
        if self.config.token_types:
            x_TD = ops.add(x_TD, self.types.weight[0])
        return x_TD if self.config.embed_norm is None else self.embed_norm(x_TD)

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """Logits [R, V] of the whole vocabulary, in the model's dtype, on every rank.

        hidden_RD: rows of what `forward` gave; only those of the last pipeline stage count.
        """
        assert self.config.generates
        if not self.ends:
            logits_RV = hidden_RD.new_empty(len(hidden_RD), self.config.vocabulary)
        elif self.config.tied:
            logits_RV = self.embed.logits(hidden_RD)
        else:
            logits_RV = ops.all_gather(self.head(hidden_RD), self.mesh.group("tp"))
        cap = self.config.logit_soft_cap
        if self.ends and cap is not None:
            logits_RV = ops.soft_cap(logits_RV, cap)
        return ops.broadcast(logits_RV, self.pipeline, self.pipeline.size - 1)

    def declaring(self) -> list[Module]:
        """The modules that have weights of their own."""
        return [m for m in self.modules() if isinstance(m, Module) and m.logical]

    def pack(self) -> None:
        """Hold weights as the active kernels want them; nothing is trained or saved after that."""
        for module in self.declaring():
            module.pack()

    def logical(self) -> dict[str, Logical]:
        """Every weight by its name here, as the whole model has it."""
        return {
            f"{module.path}.{name}": logical
            for module in self.declaring()
            for name, logical in module.logical.items()
        }

    def cache_specs(self, dtype: torch.dtype | None = None) -> tuple[CacheSpec, ...]:
        """What each layer of this rank remembers; keys and values in `dtype`, else the model's."""
        layers = cast("list[Layer]", list(self.layers.values()))
        return tuple(layer.mixer.cache_spec(dtype or self.dtype) for layer in layers)
