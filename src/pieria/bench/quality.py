"""What a format costs: a model's next-token distributions on a text against those in float32.

A text is cut into windows that are computed each by itself, over pages as a server would; every
token but a window's first counts. Knows models and formats; options and tables are elsewhere.

T tokens, R rows of logits, V vocabulary.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from pieria.clock import Clock
from pieria.engine.batch import pack
from pieria.engine.device_runner import DeviceRunner
from pieria.engine.layout import Layout, layout
from pieria.engine.place import allocate, kv_cache_dtype, runner
from pieria.engine.plan import Chunk, Draw, StepPlan
from pieria.engine.runner_config import DTYPES, RunnerConfig
from pieria.engine.scheduler import SchedulerConfig
from pieria.hardware.spec import Device
from pieria.models.checkpoint import Checkpoint, open_checkpoint
from pieria.models.loader import build, held_bytes, load
from pieria.models.parts import Module
from pieria.models.quantization import NAMES, NONE, STORED
from pieria.ops import Weight
from pieria.parallel.mesh import Mesh

TEXT = Path(__file__).parent / "text" / "opticks.txt"

PAGE_TOKENS = 16

ROWS = 64
"""Of logits that are compared together."""

STEPS = 64
"""Single tokens that are computed after half of the first window, for the speed."""


@dataclass(frozen=True)
class Quality:
    """bits: of a weight of matrices, scales included. kl: mean, in nats a token, of the format's
    distribution from float32's. agreement: share of the tokens with the same likeliest next one.
    prompt_rate, decode_rate: tokens/s of whole windows, and of single tokens.
    """

    format: str
    bits: float
    perplexity: float
    kl: float
    agreement: float
    prompt_rate: float
    decode_rate: float


@dataclass(frozen=True)
class Loaded:
    """A model ready to compute. pages: of each page table."""

    runner: DeviceRunner
    layout: Layout
    pages: int
    bits: float

    def hidden(self, tokens: Sequence[int]) -> Tensor:
        """[T, D] of tokens from the first place on."""
        run = self.runner
        chunks = [self._chunk(tokens, 0, None)]
        packed = pack(chunks, run.page_tokens, run.caches, run.tables, run.device)
        hidden_TD: Tensor = run.model(*packed)
        return hidden_TD

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """[R, V]."""
        logits_RV: Tensor = self.runner.model.logits(hidden_RD)
        return logits_RV

    def step(self, token: int, start: int) -> None:
        """Compute the token at a place, and draw the one after it, as a server does."""
        self.runner.run(StepPlan((self._chunk([token], start, Draw(0)),)))

    def _chunk(self, tokens: Sequence[int], start: int, draw: Draw | None) -> Chunk:
        tables = tuple(
            tuple(range(i * self.pages, (i + 1) * self.pages))
            for i in range(len(self.layout.windows))
        )
        stateful = any(spec.state for spec in self.layout.specs)
        end = start + len(tokens)
        states = (start % 2 if start else -1, end % 2) if stateful else (-1, -1)
        return Chunk("text", start, tuple(tokens), tables, *states, draw=draw)


def known(name: str, reference: Checkpoint) -> tuple[Checkpoint, str]:
    """The checkpoint, and the format or dtype that a name of `--formats` means.

    ValueError for a name that is none, and for a checkpoint of other tokens.
    """
    if name in NAMES or name in DTYPES[1:]:
        return reference, name
    path = Path(name).expanduser()
    if not path.exists():
        names = ", ".join((*DTYPES[1:], *NAMES))
        raise ValueError(f"format {name!r} is none of {names}, and no checkpoint's path")
    found = open_checkpoint(path)
    words = "The quick brown fox, 1704: \u00e6ther."
    if found.tokenizer().encode(words) != reference.tokenizer().encode(words):
        raise ValueError(f"{path}: not the same model: its tokenizer gives other tokens")
    return found, STORED


def fits(checkpoint: Checkpoint, format: str) -> None:
    """ValueError if a weight does not divide as the format wants it."""
    model = build(checkpoint, Mesh(), torch.float32)
    held_bytes(checkpoint, model, NONE if format in DTYPES[1:] else format)


def loaded(
    checkpoint: Checkpoint,
    format: str,
    dtype: torch.dtype,
    length: int,
    device: Device,
    kv: str = "auto",
) -> Loaded:
    """A model with weights in a format, or all in the dtype that `format` names, and room for
    `length` tokens. kv: how keys and values are held, as `--kv-cache-dtype` names it.
    """
    if format in DTYPES[1:]:
        dtype, format = getattr(torch, format), NONE
    model = build(checkpoint, Mesh(), dtype)
    if not model.config.generates:
        raise ValueError(f"{checkpoint.path}: {model.config.family} models do not generate")
    held = numbers = 0

    def complete(module: Module) -> None:
        nonlocal held, numbers
        if module.quantizable:
            weight: Tensor | Weight = getattr(module, "weight")  # noqa: B009
            numbers += weight.numel()
            held += weight.nbytes
        module.pack()

    load(checkpoint, model, device.torch_device, complete=complete, quantize=format)
    arranged = layout(model.cache_specs(kv_cache_dtype(kv)))
    pages = -(-length // PAGE_TOKENS)
    count = pages * len(arranged.windows)
    whole = range(len(arranged.specs))
    caches = allocate(arranged, whole, count, 2, PAGE_TOKENS, device)
    config, one = RunnerConfig("-", block_size=PAGE_TOKENS), SchedulerConfig(max_num_seqs=1)
    made = runner(model, caches, arranged.tables, config, one, length, device)
    return Loaded(made, arranged, pages, 8 * held / max(numbers, 1))


class Computes(Protocol):
    """What has a distribution of next tokens."""

    def hidden(self, tokens: Sequence[int]) -> Tensor:
        """[T, D] of a window's tokens."""

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """[R, V] of some of them."""


@dataclass(frozen=True)
class Reference:
    """A model, and the hidden states [T, D] that it has for each window."""

    computes: Computes
    windows: Sequence[Sequence[int]]
    hidden: Sequence[Tensor]


@dataclass(frozen=True)
class Distance:
    """As in `Quality`. seconds: for all windows' hidden states."""

    perplexity: float
    kl: float
    agreement: float
    seconds: float


@torch.inference_mode()
def reference(
    computes: Computes,
    windows: Sequence[Sequence[int]],
    advance: Callable[[], None] = lambda: None,
) -> Reference:
    """`advance()` is called after each window."""
    hidden = []
    for window in windows:
        hidden.append(computes.hidden(window))
        advance()
    return Reference(computes, windows, hidden)


def measure(
    name: str,
    reference: Reference,
    other: Loaded,
    clock: Clock,
    advance: Callable[[], None] = lambda: None,
) -> Quality:
    """Compare two models of one vocabulary on the windows; `advance()` is called after each."""
    windows = reference.windows
    found = distance(reference, other, clock, advance=advance)
    return Quality(
        name,
        other.bits,
        found.perplexity,
        found.kl,
        found.agreement,
        sum(map(len, windows)) / found.seconds,
        _decode_rate(other, windows[0], clock),
    )


@torch.inference_mode()
def distance(
    reference: Reference,
    other: Computes,
    clock: Clock,
    begin: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> Distance:
    """begin: the first place of a window whose next token counts."""
    exact = reference.computes
    loss = divergence = seconds = 0.0
    same = count = 0
    for window, exact_TD in zip(reference.windows, reference.hidden, strict=True):
        began = clock.now()
        hidden_TD = other.hidden(window)
        seconds += clock.now() - began
        for first in range(begin, len(window) - 1, ROWS):
            last = min(first + ROWS, len(window) - 1)
            p_RV = torch.log_softmax(exact.logits(exact_TD[first:last]).double(), -1)
            q_RV = torch.log_softmax(other.logits(hidden_TD[first:last]).double(), -1)
            targets_R1 = torch.tensor(window[first + 1 : last + 1]).unsqueeze(1).to(q_RV.device)
            loss -= float(q_RV.gather(1, targets_R1).sum())
            divergence += float((p_RV.exp() * (p_RV - q_RV)).sum())
            same += int((p_RV.argmax(-1) == q_RV.argmax(-1)).sum())
            count += last - first
        advance()
    return Distance(math.exp(loss / count), divergence / count, same / count, seconds)


@torch.inference_mode()
def _decode_rate(loaded: Loaded, window: Sequence[int], clock: Clock) -> float:
    """Tokens/s one by one, after the window's first half."""
    half = len(window) // 2
    loaded.hidden(window[:half])
    loaded.step(window[half], half)  # the first one is recorded
    steps = min(STEPS, len(window) - half)
    began = clock.now()
    for place in range(half, half + steps):
        loaded.step(window[place], place)
    return steps / (clock.now() - began)
