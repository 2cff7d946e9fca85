"""The engine's step: what fails, what is told of it, what is left of who ends without one."""

import logging

import pytest

from pieria.engine.cause import SHORT
from pieria.engine.engine import Engine
from pieria.engine.messages import Add, Output
from pieria.engine.plan import StepPlan, StepResult
from pieria.engine.prefix_cache import PrefixCache
from pieria.engine.sampling_params import SamplingParams
from pieria.engine.scheduler import Scheduler, SchedulerConfig
from tests.engine.toy import ToyRunner, alone

NO_STOPS: frozenset[int] = frozenset()


class Short(ToyRunner):
    """Has no memory for steps with the request "large", or for steps of so many requests."""

    most = 99

    def run(self, plan: StepPlan) -> StepResult:
        ids = [chunk.request for chunk in plan.chunks]
        if "large" in ids or len(ids) > self.most:
            # What torch says on processors.
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ...")
        return super().run(plan)


def engine() -> Engine:
    config = SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=16)
    scheduler = Scheduler(config, PrefixCache(100, 4), NO_STOPS, 100)
    return Engine(scheduler, Short(100, 4))


def add(id: str) -> Add:
    return Add(id, tuple(len(id) + i for i in range(5)), SamplingParams(), 7, 6)


def served(made: Engine, *adds: Add) -> dict[str, list[Output]]:
    for message in adds:
        made.add(message)
    news: dict[str, list[Output]] = {message.id: [] for message in adds}
    while not made.idle:
        for output in made.step():
            news[output.id].append(output)
    return news


def tokens_of(news: list[Output]) -> list[int]:
    return [token for output in news for token in output.tokens]


def test_short_memory_ends_who_wants_it_and_the_log_says_what_to_change(
    caplog: pytest.LogCaptureFixture,
) -> None:
    good = [add("a"), add("bb")]
    found = served(engine(), good[0], add("large"), good[1])
    for message in good:
        assert tokens_of(found[message.id]) == alone(message, NO_STOPS).tokens
    assert found["large"][-1].error == "there was not enough memory for computing a step of it"
    assert SHORT in caplog.text and "--kv-cache-memory-bytes" in SHORT


def test_steps_too_large_for_memory_are_computed_in_parts_and_that_is_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Short, "most", 1)
    adds = [add("a"), add("bb"), add("ccc")]
    found = served(engine(), *adds)
    for message in adds:
        assert tokens_of(found[message.id]) == alone(message, NO_STOPS).tokens
    assert SHORT in caplog.text


def test_nothing_is_kept_of_who_ends_before_its_first_step(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = Scheduler._begin

    def failing(self: Scheduler, request: object) -> None:
        if request.id == "bad":  # type: ignore[attr-defined]
            raise KeyError("a secret of the machine")
        begin(self, request)  # type: ignore[arg-type]

    monkeypatch.setattr(Scheduler, "_begin", failing)
    caplog.set_level(logging.CRITICAL)
    made = engine()
    news = served(made, add("a"), add("bad"))
    assert news["bad"][-1].error == "admitting it failed with KeyError"
    assert made._arrived == {}
    assert news["a"][0].queued_seconds is not None
