"""Serving on a device that is not there: the engine process's runner factory for `virtual:NAME`.

Steps take their predicted time on a real clock; see `words` for what their tokens are. Knows the
engine's settings and the planner. Does not know HTTP.
"""

import logging
from pathlib import Path
from typing import Any

import msgspec

from pieria.clock import Clock, RealTime
from pieria.config import Decision
from pieria.engine.engine import Engine
from pieria.engine.messages import Add
from pieria.engine.place import place
from pieria.engine.process import Prepared
from pieria.engine.runner_config import RunnerConfig
from pieria.engine.sampling_params import SamplingParams
from pieria.engine.scheduler import SchedulerConfig
from pieria.hardware import catalog
from pieria.models.checkpoint import Checkpoint, open_checkpoint
from pieria.parallel.mesh import Mesh
from pieria.plan.arrangement import Arrangement
from pieria.plan.placed import MEMORY_FRACTION, Subject, placed, what_fits
from pieria.plan.practice import ENGINE
from pieria.plan.precision import PRECISIONS
from pieria.plan.replica import PredictedRunner, Replica
from pieria.plan.serve import described
from pieria.plan.virtual_config import VirtualConfig, device_title
from pieria.plan.words import Words

SLACK_SECONDS = 0.02
"""A step that is asked for so soon after the last one began when that ended: the host's share is in
the prediction.
"""

WRITTEN_TOKENS = 96
OPENINGS = (
    "Once upon a time, in a small town by the sea,",
    "The most important thing to know about mountains is",
    "To make a good soup, first",
    "Yesterday the committee met to discuss",
)

log = logging.getLogger(__name__)


class Pace:
    """A clock on which a device that is busy until some time is waited for.

    speedup: how many of its seconds pass in one. `sleep` takes the device's seconds.
    """

    def __init__(self, clock: Clock, speedup: float) -> None:
        self.clock = clock
        self.speedup = speedup
        self.late_seconds = 0.0
        self._until = clock.now()

    def now(self) -> float:
        return self.clock.now()

    def wall(self) -> float:
        return self.clock.wall()

    def sleep(self, seconds: float) -> None:
        """Until a step of so many seconds ends that began when the one before did."""
        now = self.clock.now()
        begin = self._until if now - self._until < SLACK_SECONDS else now
        self._until = begin + seconds / self.speedup
        if self._until > now:
            self.clock.sleep(self._until - now)
        else:
            self._behind(now - self._until)

    def _behind(self, seconds: float) -> None:
        """The step's whole time went by before it was asked for."""
        if int(self.late_seconds + seconds) > int(self.late_seconds):
            log.warning(
                "this machine is too slow to keep the predicted pace: %.0f s behind in all",
                self.late_seconds + seconds,
            )
        self.late_seconds += seconds


def prepare(settings: dict[str, Any]) -> Prepared:
    """The runner factory. settings: `model`, as asked for; `runner`, whose model is the path of the
    one that lends its tokenizer; `scheduler`; `virtual`. ValueError for what cannot be.
    """
    runner = msgspec.convert(settings["runner"], RunnerConfig)
    scheduler = msgspec.convert(settings["scheduler"], SchedulerConfig)
    virtual = msgspec.convert(settings["virtual"], VirtualConfig)
    spread = _arrangement(runner)
    form = PRECISIONS[_precision(runner, virtual)].with_cache(runner.kv_cache_dtype)
    name, _ = catalog.counted(runner.device)
    subject = Subject(
        settings["model"],
        described(settings["model"]),
        catalog.cluster(name),
        ENGINE,
        page_tokens=runner.block_size,
        memory_fraction=MEMORY_FRACTION,
        max_model_len=runner.max_model_len,
        cache_fraction=runner.memory_fraction,
        cache_bytes=runner.kv_cache_memory_bytes,
    )
    try:
        found = placed(subject, spread, form, scheduler)
    except ValueError as error:
        works = what_fits(subject, spread.cards, form, scheduler)
        raise ValueError(f"{error}; what works: {works}") from error
    for count in (1, scheduler.max_num_batched_tokens):
        found.predictor.seconds([count], [1], 1, 1)  # the first predictions take long
    checkpoint = open_checkpoint(Path(runner.model))
    replica, clock = found.replica, RealTime()
    decisions = (
        Decision("device", device_title(runner.device, virtual), "as its name says"),
        Decision("layout", f"{spread} in {form.name}", "over all cards"),
        Decision("tokens", f"{virtual.text}, of {runner.model}", "nothing is computed"),
        *found.decisions,
    )
    return Prepared(
        runner=PredictedRunner(
            found.predictor,
            _words(checkpoint, runner, virtual),
            Pace(clock, virtual.speedup),
        ),
        pages=replica.pages,
        page_tokens=replica.page_tokens,
        max_model_len=replica.max_model_len,
        vocabulary=checkpoint.tokenizer().size,
        decisions=tuple((d.name, d.value, d.reason) for d in decisions),
        windows=replica.windows,
        states=replica.states,
    )


def _arrangement(runner: RunnerConfig) -> Arrangement:
    """ValueError unless the sizes make as many cards as the device's name says."""
    for name in ("threads", "cpu_isa", "enforce_eager"):
        if getattr(runner, name) != getattr(RunnerConfig("-"), name):
            raise ValueError(f"{name}={getattr(runner, name)!r} means nothing on {runner.device}")
    _, counted = catalog.counted(runner.device)
    spread = Arrangement(
        tp=runner.tensor_parallel_size,
        pp=runner.pipeline_parallel_size,
        ep=runner.expert_parallel_size,
    )
    cards = counted or spread.cards
    if spread.cards == 1:
        return Arrangement(tp=cards)
    if spread.cards != cards:
        raise ValueError(
            f"{spread} takes {spread.cards} cards and {runner.device} has {cards}; one replica is"
            f" served, so ask for {runner.device.rpartition('x')[0]}x{spread.cards}"
        )
    return spread


def _precision(runner: RunnerConfig, virtual: VirtualConfig) -> str:
    if runner.dtype == "auto":
        return virtual.quantize
    if virtual.quantize != VirtualConfig().quantize or runner.dtype not in PRECISIONS:
        raise ValueError(
            f"dtype={runner.dtype} with quantize={virtual.quantize}: a virtual device takes one of"
            f" {', '.join(PRECISIONS)} as --virtual-quantize"
        )
    return runner.dtype


def _words(checkpoint: Checkpoint, runner: RunnerConfig, virtual: VirtualConfig) -> Words:
    tokenizer = checkpoint.tokenizer()
    if virtual.text == "written":
        text = _written(checkpoint, runner.model)
        return Words(text, checkpoint.stop_ids, virtual.answer_tokens, is_text=True)
    ordinary = [
        token
        for token in range(tokenizer.size)
        if token not in tokenizer.special_ids and tokenizer.token_bytes(token)
    ]
    return Words(ordinary, checkpoint.stop_ids, virtual.answer_tokens, is_text=False)


def _written(checkpoint: Checkpoint, path: str) -> list[int]:
    """What the model at `path` writes after some openings, on a device that is here."""
    tokenizer = checkpoint.tokenizer()
    limits = SchedulerConfig(max_num_seqs=len(OPENINGS), max_num_batched_tokens=256)
    runner = RunnerConfig(path, max_model_len=512)
    settings = {"runner": msgspec.to_builtins(runner), "scheduler": msgspec.to_builtins(limits)}
    prepared = place(settings, Mesh())
    replica = Replica(
        limits,
        prepared.pages,
        prepared.page_tokens,
        prepared.max_model_len,
        prepared.windows,
        prepared.states,
    )
    params = SamplingParams(temperature=0.7, top_p=0.9, ignore_eos=True, max_tokens=None)
    try:
        engine = Engine(replica.start(checkpoint.stop_ids), prepared.runner)
        written: dict[str, list[int]] = {opening: [] for opening in OPENINGS}
        for seed, opening in enumerate(OPENINGS):
            tokens = tuple(tokenizer.encode(opening))
            engine.add(Add(opening, tokens, params, seed, WRITTEN_TOKENS))
        while not engine.idle:
            for output in engine.step():
                written[output.id] += output.tokens
    finally:
        prepared.runner.close()
    return [
        token
        for opening, tokens in written.items()
        for token in (*tokenizer.encode(opening, False), *tokens)
        if token not in tokenizer.special_ids
    ]
