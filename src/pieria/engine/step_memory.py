"""What the largest step that may be admitted takes besides weights and cache: a bound, and a trial.

The bound, from a model's shapes, is there before any weight is loaded. It holds where the device
has kernels; references may hold every pair of tokens. The trial is that step itself, through one
layer of each kind: what a layer makes is gone before the next one begins, and a start has no time
for all of them.
"""

from array import array
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from pieria.engine.plan import Chunk, Draw, StepPlan
from pieria.models.config import MoeConfig
from pieria.models.decoder import Decoder

MOST_ROWS = 128
LOGITS_BYTES = 64 << 20
"""Where every position's log-probability is wanted, logits of so many rows are held at once."""

RESIDUALS = 4
"""Hidden states alive beside a layer's own: its input, what is added to it, norms of both."""


def logits_rows(vocabulary: int, size: int) -> int:
    """Rows of logits that are held at once, of so many bytes a number, where all are wanted."""
    return max(1, min(MOST_ROWS, LOGITS_BYTES // _row_bytes(vocabulary, size)))


def step_bytes(model: Decoder, tokens: int, rows: int, recorded: bool = False) -> int:
    """Of `tokens` in a step and `rows` draws: all that one layer makes, or the logits.

    Everything that a layer makes is counted as alive at once. recorded: with what recorded steps
    keep, which is as much again, but for what is computed of logits.
    """
    config, size = model.config, model.dtype.itemsize
    widest = max((_features(model, name) for name in model.layers), default=0)
    of_layers = tokens * (widest + RESIDUALS * config.hidden) * size
    hidden = 2 * tokens * config.hidden * size
    most = max(rows, min(tokens, logits_rows(config.vocabulary, size)))
    largest = max(of_layers, hidden + most * _row_bytes(config.vocabulary, size))
    if not recorded:
        return largest
    return largest + max(of_layers, hidden + rows * config.vocabulary * size)


def worst_step(
    tokens: int, rows: int, prompt_rows: int, pages: int, page_tokens: int, tables: int, states: int
) -> StepPlan:
    """A step of so many tokens and draws, whose first request wants log-probabilities of a prompt.

    prompt_rows: of how many positions; more take no more at once. What it leaves in pages and
    states means nothing: requests share them here.
    """
    rows = min(rows, tokens)
    first = min(tokens - rows + 1, pages * page_tokens)
    seen = array("i", [0])  # a token that every model has; penalties take little, however many
    draw = Draw(
        seed=1,
        temperature=1.0,
        top_p=0.9,
        repetition_penalty=1.1,
        seen=seen.tobytes(),
        times=array("i", [1]).tobytes(),
        logprobs=20,
    )

    def chunk(number: int, count: int, targets: int) -> Chunk:
        whole = tuple(range(-(-count // page_tokens)))
        return Chunk(
            str(number),
            0,
            (0,) * count,
            (whole,) * tables,
            writes=number % states if states else -1,
            draw=draw,
            targets=(0,) * targets,
            prompt_logprobs=20 if targets else None,
        )

    prompt = chunk(0, first, min(first, prompt_rows))
    return StepPlan((prompt, *(chunk(i, 1, 0) for i in range(1, rows))))


@contextmanager
def one_of_each_kind(model: Decoder) -> Iterator[None]:
    """Within it, the model has the widest layer of each kind, and no others."""
    layers = model.layers
    chosen: dict[tuple[type, type], str] = {}
    for name in sorted(layers, key=lambda name: _features(model, name)):
        config = model.config.layers[int(name)]
        chosen[type(config.mixer), type(config.mlp)] = name
    model.layers = nn.ModuleDict({name: layers[name] for name in layers if name in chosen.values()})
    try:
        yield
    finally:
        model.layers = layers


def _row_bytes(vocabulary: int, size: int) -> int:
    """Logits as they are, widened, and once more for what is computed of them."""
    return vocabulary * (size + 2 * 4)


def _features(model: Decoder, name: str) -> int:
    """Numbers that a token's way through this layer makes."""
    network = model.config.layers[int(name)].mlp
    chosen = network.top if isinstance(network, MoeConfig) else 1
    found = 0
    for parameter in model.layers[name].parameters():
        if parameter.dim() == 2:
            found += parameter.shape[0]
        elif parameter.dim() == 3:
            found += parameter.shape[1] * chosen
    return found
