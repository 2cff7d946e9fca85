"""Bytes of one rank: weights in their format, the cache, a step's intermediates, and buffers.

Knows the model's own statements (`Decoder.logical`, `CacheSpec`) and formats. Does not know seconds
nor how much a device has.
"""

from dataclasses import dataclass

from pieria.engine.resolve import Need
from pieria.models.moe import Stack
from pieria.models.parts import Linear, Module
from pieria.plan.precision import Precision
from pieria.plan.spread import Spread
from pieria.plan.trace import Traced


@dataclass(frozen=True)
class RankMemory:
    """weights: as they are kept. activations: the most that is alive at once in a step of `tokens`.

    buffers: of collectives and kernels, whatever the step. need: what `engine.resolve.cache` asks.
    """

    weights: int
    activations: int
    buffers: int
    need: Need


def rank_memory(
    traced: Traced, precision: Precision, spread: Spread, page_tokens: int, tokens: int
) -> RankMemory:
    """Of the rank that `traced` is."""
    weights = weight_bytes(traced, precision, spread)
    layout, stage = traced.layout, traced.stage
    need = Need(
        weights=weights,
        page=page_tokens * layout.token_bytes(stage),
        windows=layout.windows,
        state=layout.state_bytes(stage) if any(s.state for s in layout.specs) else None,
        context=traced.model.config.context,
    )
    return RankMemory(weights, activation_bytes(traced, tokens), 0, need)


def weight_bytes(
    traced: Traced, precision: Precision, spread: Spread, of: type[Module] = Module
) -> int:
    """Matrices of layers in their format, everything else in the dtype that it is declared in.

    of: modules of this kind alone.
    """
    total = 0.0
    for module in traced.model.modules():
        if isinstance(module, of):
            formatted = Stack if precision.experts_only else Linear | Stack
            in_format = isinstance(module, formatted) and module.path.startswith("layers.")
            for name, parameter in module.named_parameters(recurse=False):
                is_matrix = in_format and name == "weight"
                size = precision.weight_bytes if is_matrix else parameter.element_size()
                if isinstance(module, Stack):
                    size /= spread.attention_dp
                total += parameter.numel() * size
    return round(total)


def activation_bytes(traced: Traced, tokens: int) -> int:
    return tokens * traced.model.config.hidden * 2 * 8
