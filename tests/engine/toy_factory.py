"""Engines around a toy runner, for threads and processes. Torch-free.

settings["runner"] says how one behaves: pages, page_tokens, windows, states, max_model_len;
step_seconds: how long a step takes; refuse, crash: what its start raises; lost: the step in which
the runner is gone; bad: id of a request in whose presence every step fails; waits: a file that it
waits for to begin; crash_if: a file that keeps it from beginning; crashes, hangs: a token that ends
the process that computes it, or holds it up for ever.
"""

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pieria.clock import RealTime
from pieria.engine.engine import RunnerLost
from pieria.engine.plan import StepPlan, StepResult
from pieria.engine.process import Prepared
from pieria.engine.scheduler import SchedulerConfig
from tests.engine.toy import ToyRunner

STOP = 5


class Unreliable(ToyRunner):
    """A toy runner that takes its time, and may fail."""

    def __init__(self, told: dict[str, Any]) -> None:
        super().__init__(
            told.get("pages", 64),
            told.get("page_tokens", 4),
            windows=tuple(told.get("windows", (None,))),
            states=told.get("states", 0),
        )
        self.told = told

    def run(self, plan: StepPlan) -> StepResult:
        RealTime().sleep(self.told.get("step_seconds", 0.0))
        if len(self.plans) + 1 == self.told.get("lost"):
            raise RunnerLost("the device fell off the bus")
        if any(chunk.request == self.told.get("bad") for chunk in plan.chunks):
            raise RuntimeError("a fault in the runner")
        if any(self.told.get("crashes") in chunk.tokens for chunk in plan.chunks):
            os.abort()
        while any(self.told.get("hangs") in chunk.tokens for chunk in plan.chunks):
            RealTime().sleep(1)
        return super().run(plan)


def settings(scheduler: dict[str, Any] | None = None, **runner: Any) -> dict[str, Any]:
    """Of a toy engine: for `prepare`, and its scheduler's options."""
    options = SchedulerConfig(**{"max_num_seqs": 8, "max_num_batched_tokens": 32})
    limits = {**asdict(options), **(scheduler or {})}
    return {"runner": runner, "scheduler": limits, "stop_ids": [STOP]}


def prepare(settings: dict[str, Any]) -> Prepared:
    """The runner factory. Its one decision is whether torch was imported."""
    told = settings["runner"]
    while "waits" in told and not Path(told["waits"]).exists():
        RealTime().sleep(0.005)
    if "crash_if" in told and Path(told["crash_if"]).exists():
        raise RuntimeError("gone for good")
    if "refuse" in told:
        raise ValueError(told["refuse"])
    if "crash" in told:
        raise RuntimeError(told["crash"])
    runner = Unreliable(told)
    return Prepared(
        runner=runner,
        pages=told.get("pages", 64),
        page_tokens=runner.page_tokens,
        max_model_len=told.get("max_model_len", 200),
        vocabulary=told.get("vocabulary", 1000),
        decisions=(("torch", str("torch" in sys.modules), "a test"),),
        windows=runner.windows,
        states=len(runner.states),
    )
