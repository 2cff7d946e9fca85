"""Where the time of steps goes, as a trace that Chrome and Perfetto show, taken by torch.

Knows torch's profiler. What kernels do that are replayed from a recording it cannot see: they are
one span, the step's.
"""

from collections.abc import Callable

from torch.profiler import profile, record_function, supported_activities

from pieria.engine.engine import Engine
from pieria.engine.plan import Runner, StepPlan, StepResult


def start(engine: Engine) -> Callable[[str], None]:
    """Begin; call what it returns with a path to end and write it there. In the runner's thread."""
    runner = engine.runner
    activities = supported_activities()  # type: ignore[no-untyped-call]
    taken = profile(activities=activities, acc_events=True)
    taken.start()
    engine.runner = _Spans(runner)

    def stop(path: str) -> None:
        engine.runner = runner
        taken.stop()
        taken.export_chrome_trace(path)

    return stop


class _Spans:
    """A runner whose steps are spans."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def run(self, plan: StepPlan) -> StepResult:
        tokens = sum(len(chunk.tokens) for chunk in plan.chunks)
        with record_function(f"step: {len(plan.chunks)} requests, {tokens} tokens"):
            return self._runner.run(plan)

    def close(self) -> None:
        self._runner.close()
