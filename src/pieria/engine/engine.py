"""The engine: requests in, tokens out. Three lines a step.

Knows the scheduler and a runner. Knows nothing about text, devices or processes.
"""

import logging
from collections.abc import Iterable

from msgspec.structs import replace

from pieria.clock import Clock, RealTime
from pieria.engine.black_box import BlackBox
from pieria.engine.cause import SHORT, cause, out_of_memory
from pieria.engine.messages import Add, Output, Stats
from pieria.engine.plan import ChunkResult, Runner, StepPlan, StepResult
from pieria.engine.scheduler import Scheduler
from pieria.engine.untold import Untold

COMPUTING = "computing a step of it"

log = logging.getLogger(__name__)


class RunnerLost(Exception):
    """The runner cannot run any plan any more; the engine ends. str() is the root cause."""


class Engine:
    """Owns the scheduler and the runner; not thread safe. box: told what is being computed."""

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        box: BlackBox | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or RealTime()
        self._arrived: dict[str, float] = {}
        self._untold = Untold()
        self.scheduler = scheduler
        self.runner = runner
        self.box = box or BlackBox.within_process()

    @property
    def idle(self) -> bool:
        return self.scheduler.idle

    @property
    def steps(self) -> int:
        """How many have ended; may be read by any thread."""
        return self.scheduler.steps

    @property
    def stats(self) -> Stats:
        return self.scheduler.stats

    def add(self, add: Add) -> None:
        """Queue a request. ValueError if it could never be served."""
        self.scheduler.add(add)
        self._arrived[add.id] = self._clock.now()
        self._untold.add(add)

    def abort(self, ids: Iterable[str], asked_at: int | None = None) -> None:
        """Forget requests; what they hold is free before the next step.

        asked_at: `steps` when that was asked for; None: now.
        """
        ids = tuple(ids)
        self.scheduler.abort(ids, asked_at)
        for id in ids:
            self._arrived.pop(id, None)
        self._untold.forget(ids)

    def step(self) -> list[Output]:
        """Compute one plan; returns what is to be told of it. RunnerLost ends the engine."""
        plan = self.scheduler.plan()
        queued = self._queued(plan) if self._arrived else {}
        result = self._run(plan)
        outputs = self.scheduler.commit(plan, result)
        if self._arrived:  # those that wait still, but for who ended before a step had it
            for output in outputs:
                if output.finish_reason is not None:
                    self._arrived.pop(output.id, None)
        if queued:
            outputs = [replace(output, queued_seconds=queued.get(output.id)) for output in outputs]
        return self._untold.due(outputs)

    def _queued(self, plan: StepPlan) -> dict[str, float]:
        """How many seconds each request has waited that is in a plan for the first time."""
        now = self._clock.now()
        begun = [chunk.request for chunk in plan.chunks if chunk.request in self._arrived]
        return {id: now - self._arrived.pop(id) for id in begun}

    def rest(self) -> None:
        """When nothing is to be done: see that everything that requests held was given back."""
        self.scheduler.repair()

    def _run(self, plan: StepPlan) -> StepResult:
        """A plan that fails is run again in halves, so that only the request at fault ends."""
        chunks = plan.chunks
        if not chunks:
            return StepResult(())
        self.box.enter([chunk.request for chunk in chunks])
        try:
            result = self.runner.run(plan)
        except RunnerLost:
            raise
        except Exception as error:
            if out_of_memory(error):
                log.error(SHORT)
            if len(chunks) == 1:
                log.exception("request %s failed", chunks[0].request)
                return StepResult((ChunkResult(chunks[0].request, error=cause(COMPUTING, error)),))
            log.warning("a step of %d requests failed, running its halves", len(chunks))
            half = len(chunks) // 2
            parts = [self._run(StepPlan(part)) for part in (chunks[:half], chunks[half:])]
            return StepResult(tuple(c for part in parts for c in part.chunks))
        self.box.leave()
        return result
