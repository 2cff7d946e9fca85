"""What a work takes at least, from the ops of Pieria's own description of the model."""

from dataclasses import dataclass

import torch

from pieria import ops
from pieria.models.checkpoint import Checkpoint
from pieria.models.context import Packed
from pieria.models.decoder import Decoder
from pieria.models.loader import build, held_bytes
from pieria.models.quantization import NONE
from pieria.parallel.mesh import Mesh

COUNTED = ("linear", "attention")
"""Parts of the names of the ops whose operations count."""


@dataclass(frozen=True)
class Costs:
    """weight_bytes: of what a step reads, which is next to nothing of an embedding that is only
    looked up in.
    """

    model: Decoder
    weight_bytes: int

    @staticmethod
    def of(checkpoint: Checkpoint, quantize: str = NONE) -> "Costs":
        """quantize: as the option of that name."""
        model = build(checkpoint, Mesh(), torch.bfloat16).to("meta")
        looked_up = () if model.config.tied else ("embed.weight",)
        return Costs(model, held_bytes(checkpoint, model, quantize, without=looked_up))

    def decode_bytes(self, context: int) -> int:
        """Read in one step of one request: all weights once, and what is remembered of it."""
        return self.weight_bytes + sum(spec.nbytes(context) for spec in self.model.cache_specs())

    def prompt_flops(self, tokens: int) -> int:
        """Of linear layers and attention, for a prompt whose last token's logits are wanted."""
        with ops.trace() as calls, torch.device("meta"):
            hidden = self.model(
                torch.empty(tokens, dtype=torch.int64), Packed.of((tokens,), "meta")
            )
            self.model.logits(hidden[-1:])
        counted = [call for call in calls if any(part in call.op.name for part in COUNTED)]
        return sum(call.cost.flops for call in counted)

    def cache_tokens(self, size: int) -> int:
        """How many tokens a cache of `size` bytes remembers."""
        return size // sum(spec.nbytes(1) for spec in self.model.cache_specs())
