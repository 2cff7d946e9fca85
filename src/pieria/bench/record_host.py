"""What steps take beside their kernels, from small models that run here.

Knows a small model and how it is run. Does not know how kernels were timed: a record says.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from statistics import median
from typing import Any

import numpy as np

from pieria.bench.drive import Load, drive
from pieria.bench.stand import described, predictor, stand
from pieria.clock import Clock
from pieria.engine.device_runner import DeviceRunner
from pieria.engine.plan import StepPlan, StepResult
from pieria.engine.scheduler import SchedulerConfig
from pieria.plan.record import Host, Record

SMALL: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1024,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
"""So small that its kernels are little beside the host."""
LAYERS = (2, 8)
LOADS = [
    Load(f"{users} users, {prompt} tokens", users, 4, prompt, prompt, 12)
    for users, prompt in product((1, 2, 4, 8, 16), (8, 32, 128))
]
SCHEDULER = SchedulerConfig(enable_prefix_caching=False)


@dataclass(frozen=True)
class Point:
    """features: what a step has. measured: its seconds. beside: those that are not its kernels'."""

    features: tuple[float, ...]
    measured: float
    beside: float


class _Timed:
    """A runner that notes each plan, when its step began and ended, and what of it a replay takes.

    A step begins where the one before is noted: between the two is what the engine does.
    """

    def __init__(self, runner: DeviceRunner, clock: Clock) -> None:
        self.runner, self.clock = runner, clock
        self.steps: list[tuple[StepPlan, float, float]] = []
        self._begun = clock.now()

    def run(self, plan: StepPlan) -> StepResult:
        made = self.runner.run(plan)
        ended = self.clock.now()
        native = 0.0
        if _is_replayed(plan):
            self._replay(len(plan.chunks))
            native = self.clock.now() - ended
        self.steps.append((plan, ended - self._begun, native))
        self._begun = self.clock.now()
        return made

    def _replay(self, requests: int) -> None:
        """The last step's kernels once more; they write what is there."""
        captured = self.runner.captured
        assert captured is not None, "the processor's steps are recorded"
        rows = next(rows for rows in captured.recorded if rows >= requests)
        recording = captured.steps[rows].recording
        assert recording is not None
        recording.replay()

    def close(self) -> None:
        """The runner inside is its owner's."""


def _is_replayed(plan: StepPlan) -> bool:
    return plan.tokens == len(plan.chunks)


def host(made: Record, clock: Clock) -> Host:
    """made: with all but the host. What fits medians of steps best."""
    replayed, called = [], []
    for layers in LAYERS:
        alone, others = _points(made, layers, clock)
        replayed += alone
        called += others
    return Host(*fitted(replayed), *fitted(called))


def _points(made: Record, layers: int, clock: Clock) -> tuple[list[Point], list[Point]]:
    """Of steps that are replayed, and of others; one of each load."""
    model = described("the host's", {**SMALL, "num_hidden_layers": layers})
    standing = stand(model, made.dtype, SCHEDULER, max(load.cache_tokens for load in LOADS))
    predicted = predictor(model, made, SCHEDULER)
    replayed, called = [], []
    for load in LOADS:
        timed = _Timed(standing.runner, clock)
        drive(load, standing.replica.start(), timed, clock, model.vocabulary, 0)
        # The first may record, and begins before there is a step.
        steps = timed.steps[1:]
        alone = [(took, native) for plan, took, native in steps if _is_replayed(plan)]
        others = [(took, predicted(plan)) for plan, took, _ in steps if not _is_replayed(plan)]
        replayed.append(_point((1.0, load.users), alone))
        features = 1.0, load.users, load.users * load.least, predicted.calls
        called.append(_point(features, others))
    return replayed, called


def _point(features: tuple[float, ...], steps: Sequence[tuple[float, float]]) -> Point:
    """steps: seconds, and those of its kernels."""
    return Point(features, median(s for s, _ in steps), median(s - k for s, k in steps))


def fitted(points: Sequence[Point]) -> list[float]:
    """Seconds of each feature, none less than nothing: least squares of errors relative to steps'
    whole time.
    """
    weights = 1 / np.array([p.measured for p in points])
    features = np.array([p.features for p in points]) * weights[:, None]
    beside = np.array([p.beside for p in points]) * weights
    kept = list(range(features.shape[1]))
    found: Any = ()
    while kept:
        found = np.linalg.lstsq(features[:, kept], beside, rcond=None)[0]
        if (found >= 0).all():
            break
        kept.pop(int(found.argmin()))
    made = [0.0] * features.shape[1]
    for at, value in zip(kept, found, strict=False):
        made[at] = float(value)
    return made
