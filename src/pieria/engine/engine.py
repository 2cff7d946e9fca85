"""The engine: requests in, tokens out. Three lines a step.

Knows the scheduler and a runner. Knows nothing about text, devices or processes.
"""

import logging
from collections.abc import Iterable

from pieria.engine.messages import Add, Output, Stats
from pieria.engine.plan import ChunkResult, Runner, StepPlan, StepResult
from pieria.engine.scheduler import Scheduler

log = logging.getLogger(__name__)


class RunnerLost(Exception):
    """The runner cannot run any plan any more; the engine ends. str() is the root cause."""


class Engine:
    """Owns the scheduler and the runner; not thread safe."""

    def __init__(self, scheduler: Scheduler, runner: Runner) -> None:
        self.scheduler = scheduler
        self.runner = runner

    @property
    def idle(self) -> bool:
        return self.scheduler.idle

    @property
    def stats(self) -> Stats:
        return self.scheduler.stats

    def add(self, add: Add) -> None:
        """Queue a request. ValueError if it could never be served."""
        self.scheduler.add(add)

    def abort(self, ids: Iterable[str]) -> None:
        """Forget requests; what they hold is free before the next step."""
        self.scheduler.abort(ids)

    def step(self) -> list[Output]:
        """Compute one plan; returns the news of every request in it. RunnerLost ends the engine."""
        plan = self.scheduler.plan()
        result = self._run(plan)
        return self.scheduler.commit(plan, result)

    def _run(self, plan: StepPlan) -> StepResult:
        """A plan that fails is run again chunk by chunk, so that only the request at fault ends."""
        if not plan.chunks:
            return StepResult(())
        try:
            return self.runner.run(plan)
        except RunnerLost:
            raise
        except Exception as error:
            if len(plan.chunks) > 1:
                log.warning("a step of %d requests failed, running each alone", len(plan.chunks))
                parts = [self._run(StepPlan((chunk,))) for chunk in plan.chunks]
                return StepResult(tuple(c for part in parts for c in part.chunks))
            log.exception("request %s failed", plan.chunks[0].request)
            cause = f"{type(error).__name__}: {error}"
            return StepResult((ChunkResult(plan.chunks[0].request, error=cause),))
