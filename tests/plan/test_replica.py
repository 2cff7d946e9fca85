"""Replicas: how many requests fit, and the runner that lets time pass."""

from pieria.engine.plan import Chunk, ChunkResult, Draw, StepPlan
from pieria.engine.scheduler import SchedulerConfig
from pieria.plan.replica import PredictedRunner, Replica, VirtualTime


def replica(
    pages: int = 100, windows: tuple[int | None, ...] = (None,), states: int = 0
) -> Replica:
    return Replica(SchedulerConfig(50, 64), pages, 16, 1024, windows, states)


def test_capacity_is_what_pages_hold() -> None:
    assert replica().concurrent(16 * 10) == 10
    assert replica().concurrent(16 * 10 + 1) == 9
    assert replica().concurrent(1024) == 1
    assert replica().concurrent(1025) == 0, "longer than the model allows"
    assert replica(pages=10).concurrent(16 * 11) == 0
    assert replica().tokens == 1600


def test_windows_and_states_change_it() -> None:
    # Beyond its window of 32 tokens a request keeps three pages, and more while its prompt comes.
    assert replica(windows=(32,)).concurrent(1000) > 10 * replica().concurrent(1000)
    assert replica(windows=(None, None)).concurrent(160) == 5
    assert replica(states=8).concurrent(160) == 4


def test_time_passes_by_what_steps_take() -> None:
    clock = VirtualTime(5.0)
    chunks = (Chunk("a", 0, (1, 2), ((0,),), draw=Draw(0)), Chunk("b", 0, (3,), ((1,),)))
    runner = PredictedRunner(
        lambda plan: 0.5 * plan.tokens,
        lambda c: ChunkResult(c.request, 9 if c.draw else None),
        clock,
    )
    result = runner.run(StepPlan(chunks))
    assert clock.now() == clock.wall() == 6.5
    assert result.chunks == (ChunkResult("a", 9), ChunkResult("b"))
    runner.close()
