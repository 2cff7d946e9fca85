"""What the largest step that may be admitted takes besides weights and cache: an upper bound.

Holds where the device has kernels; references may hold every pair of tokens. Knows a model's
shapes. Does not run it: that would take longer than a start may.
"""

from torch import nn

from pieria.models.config import MoeConfig
from pieria.models.decoder import Decoder

LOGITS_ROWS = 128
"""Rows of the vocabulary that are held at once where every position's log-probability is wanted."""

RESIDUALS = 4
"""Hidden states alive beside a layer's own: its input, what is added to it, norms of both."""


def step_bytes(model: Decoder, tokens: int, rows: int) -> int:
    """Of `tokens` in a step and `rows` draws: all that one layer makes, or the logits.

    Everything that a layer makes is counted as alive at once, and the logits as they are, widened,
    and once more for what is computed of them.
    """
    config, size = model.config, model.dtype.itemsize
    widest = max(
        (_features(layer, config.layers[int(i)].mlp) for i, layer in model.layers.items()),
        default=0,
    )
    of_layers = tokens * (widest + RESIDUALS * config.hidden) * size
    hidden = 2 * tokens * config.hidden * size
    of_logits = max(rows, min(tokens, LOGITS_ROWS)) * config.vocabulary * (size + 2 * 4)
    return max(of_layers, hidden + of_logits)


def _features(layer: nn.Module, network: object) -> int:
    """Numbers that a token's way through this layer makes."""
    chosen = network.top if isinstance(network, MoeConfig) else 1
    found = 0
    for parameter in layer.parameters():
        if parameter.dim() == 2:
            found += parameter.shape[0]
        elif parameter.dim() == 3:
            found += parameter.shape[1] * chosen
    return found
