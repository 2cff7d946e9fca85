"""News of several tokens at a time: the same as one after another, and less often."""

import msgspec
import pytest

from pieria.engine.engine import Engine
from pieria.engine.messages import Add, Output
from pieria.engine.plan import StepPlan, StepResult
from pieria.engine.prefix_cache import PrefixCache
from pieria.engine.sampling_params import SamplingParams
from pieria.engine.scheduler import Scheduler, SchedulerConfig
from tests.engine.toy import ToyRunner

PARAMS = SamplingParams(temperature=1.0, logprobs=1)


def engine(runner: ToyRunner) -> Engine:
    config = SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=8)
    return Engine(Scheduler(config, PrefixCache(64, 4), frozenset(), 200), runner)


def add(id: str, interval: int, max_tokens: int = 12) -> Add:
    tokens = tuple(range(1, 11))
    return Add(id, tokens, PARAMS, 7, max_tokens, stream_interval=interval)


def told(made: Engine) -> dict[str, list[Output]]:
    story: dict[str, list[Output]] = {}
    while not made.idle:
        for output in made.step():
            story.setdefault(output.id, []).append(output)
    return story


def joined(news: list[Output]) -> tuple[object, ...]:
    return (
        [token for output in news for token in output.tokens],
        [report for output in news for report in output.logprobs],
        news[-1].finish_reason,
        news[0].cached_tokens,
    )


@pytest.mark.parametrize("interval", [2, 5, 100])
def test_the_same_is_told_in_fewer_messages(interval: int) -> None:
    made = engine(ToyRunner(64, 4))
    made.add(add("each", 1))
    each = told(made)["each"]
    made = engine(ToyRunner(64, 4))
    made.add(add("each", interval))
    made.add(add("other", 1))
    story = told(made)
    assert joined(story["each"]) == joined(each)
    counts = [len(output.tokens) for output in story["each"] if output.tokens]
    rest = [interval] * (11 // interval) + [11 % interval] * (11 % interval > 0)
    assert counts == [1, *rest]
    assert {len(output.tokens) for output in story["other"] if output.tokens} == {1}


def test_what_was_computed_before_an_error_is_told_with_it() -> None:
    class Failing(ToyRunner):
        def run(self, plan: StepPlan) -> StepResult:
            result = super().run(plan)
            late = [chunk.start > 14 for chunk in plan.chunks]
            return StepResult(
                tuple(
                    msgspec.structs.replace(c, token=None, error="wrong") if bad else c
                    for c, bad in zip(result.chunks, late, strict=True)
                )
            )

    made = engine(Failing(64, 4))
    made.add(add("a", 50))
    news = told(made)["a"]
    assert [len(output.tokens) for output in news if output.tokens] == [1, 5]
    assert (news[-1].finish_reason, news[-1].error) == ("error", "wrong")


def test_nothing_is_left_of_requests_that_are_aborted() -> None:
    made = engine(ToyRunner(64, 4))
    made.add(add("a", 50))
    for _ in range(6):
        made.step()
    made.abort(["a"])
    made.add(add("a", 1, max_tokens=3))
    assert [len(output.tokens) for output in told(made)["a"] if output.tokens] == [1, 1, 1]
