"""The scheduler on a toy model: who is computed when, and that nobody can tell from the tokens."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pieria.engine.engine import Engine
from pieria.engine.messages import Add, Output, Stats
from pieria.engine.pages import Pages, most_pages
from pieria.engine.plan import Chunk, ChunkResult, Draw, StepPlan, StepResult
from pieria.engine.policies import POLICIES
from pieria.engine.prefix_cache import ABSENT, Key, PrefixCache, Table
from pieria.engine.request import Request
from pieria.engine.sampling_params import SamplingParams
from pieria.engine.scheduler import Scheduler, SchedulerConfig
from tests.engine.profiles import CATCH, MANY, MODEST, STEADY
from tests.engine.toy import VOCABULARY, History, Story, ToyRunner, Windows, alone

STOP_IDS = frozenset({0})


def message(
    id: str,
    tokens: Sequence[int] = (1, 2, 3),
    max_tokens: int = 4,
    seed: int = 0,
    choice: int = 0,
    leader: str | None = None,
    priority: int = 0,
    salt: str = "",
    adapter: str = "",
    **params: Any,
) -> Add:
    """An `Add`; params: fields of SamplingParams. It ends by length unless ignore_eos is False."""
    sampling = SamplingParams(**{"ignore_eos": True, **params})
    return Add(
        id, tuple(tokens), sampling, seed, max_tokens, choice, leader, priority, salt, adapter
    )


class Bench:
    """A scheduler, a toy runner, and the news of every request."""

    def __init__(
        self,
        pages: int = 64,
        page_tokens: int = 2,
        max_model_len: int = 64,
        fails: dict[str, str] | None = None,
        windows: Windows = (None,),
        states: int = 0,
        **config: Any,
    ) -> None:
        caching = config.get("enable_prefix_caching", True)
        config.setdefault("max_mixed_tokens", config.get("max_num_batched_tokens"))
        self.scheduler = Scheduler(
            SchedulerConfig(**config),
            PrefixCache(pages, page_tokens, caching, windows, states),
            STOP_IDS,
            max_model_len,
        )
        self.runner = ToyRunner(pages, page_tokens, fails, windows, states)
        self.added: dict[str, Add] = {}
        self.news: dict[str, list[Output]] = {}

    @property
    def stats(self) -> Stats:
        return self.scheduler.stats

    def add(self, *adds: Add) -> None:
        for add in adds:
            self.scheduler.add(add)
            self.added[add.id] = add
            self.news[add.id] = []

    def step(self) -> dict[str, Chunk]:
        """One step; its chunks by request."""
        plan = self.scheduler.plan()
        outputs = self.scheduler.commit(plan, self.runner.run(plan))
        self.scheduler.check()
        for output in outputs:
            self.news[output.id].append(output)
        return {chunk.request: chunk for chunk in plan.chunks}

    def run(self, most_steps: int = 500) -> None:
        """Until all is done, and everybody got what he gets alone."""
        for _ in range(most_steps):
            if self.scheduler.idle:
                break
            assert self.step(), "a step without work while requests wait"
        assert self.scheduler.idle, f"not done after {most_steps} steps"
        assert self.stats.pages_held == self.stats.running == self.stats.waiting == 0
        assert self.scheduler.cache.states.held == 0
        windows, stateful = self.runner.windows, len(self.runner.states) > 0
        for id, add in self.added.items():
            assert story(self.news[id]) == alone(add, STOP_IDS, windows, stateful), id


def story(news: Iterable[Output]) -> Story:
    told = Story()
    for output in news:
        assert told.finish_reason is None, "news after the end"
        told.tokens += output.tokens
        told.logprobs += output.logprobs
        told.prompt_logprobs += output.prompt_logprobs
        told.finish_reason, told.stop_reason = output.finish_reason, output.stop_reason
    return told


def lengths(chunks: dict[str, Chunk]) -> dict[str, int]:
    return {id: len(chunk.tokens) for id, chunk in chunks.items()}


# ---- admission ----


@pytest.mark.parametrize("field", ["max_num_seqs", "max_num_batched_tokens"])
@pytest.mark.parametrize("value", [0, -1])
def test_config_refuses_limits_below_one(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"{field}={value} must be at least 1"):
        SchedulerConfig(**{field: value})


def test_config_refuses_fewer_tokens_than_requests() -> None:
    text = "max_num_batched_tokens=3 must not be less than max_num_seqs=4"
    with pytest.raises(ValueError, match=text):
        SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=3)


def test_config_refuses_mixed_steps_that_are_no_steps() -> None:
    for tokens in (3, 9):
        text = f"max_mixed_tokens={tokens} must be from max_num_seqs=4 to max_num_batched_tokens=8"
        with pytest.raises(ValueError, match=text):
            SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=8, max_mixed_tokens=tokens)


def test_mixed_steps_take_three_quarters_and_a_token_of_each() -> None:
    assert SchedulerConfig(4, 400).mixed_tokens == 300
    assert SchedulerConfig(350, 400).mixed_tokens == 350
    assert SchedulerConfig(4, 400, 100).mixed_tokens == 100


def test_config_refuses_unknown_policies() -> None:
    text = r"scheduling_policy='lifo'; there are: fcfs, priority, longest_prefix"
    with pytest.raises(ValueError, match=text):
        SchedulerConfig(scheduling_policy="lifo")


@pytest.mark.parametrize(
    ("add", "text"),
    [
        (message("a", [1]), "request id 'a' is in use"),
        (message("b", []), "the prompt has no tokens; at least 1 is needed"),
        (
            message("b", [1] * 30, max_tokens=3),
            "30 prompt tokens and max_tokens=3 make 33; the model's limit is 32",
        ),
        (
            message("b", [1] * 33, max_tokens=-1),
            "max_tokens=-1 must be at least 1;"
            " the prompt has 33 tokens and the model's limit is 32",
        ),
        (
            message("b", [1] * 32, max_tokens=0),
            "max_tokens=0 must be at least 1; the prompt has 32 tokens and the model's limit is 32",
        ),
        (
            message("b", [1] * 20, max_tokens=9),
            "29 tokens need 15 pages; the cache has 14 of 2 tokens",
        ),
    ],
)
def test_what_can_never_be_served_is_refused(add: Add, text: str) -> None:
    bench = Bench(pages=14, page_tokens=2, max_model_len=32)
    bench.add(message("a"))
    with pytest.raises(ValueError) as refused:
        bench.scheduler.add(add)
    assert str(refused.value) == text
    assert bench.stats.waiting == 1
    bench.run()


def test_an_id_may_be_used_again_after_the_end() -> None:
    bench = Bench()
    for prompt in ([1, 2, 3], [4, 5]):
        bench.add(message("a", prompt))
        bench.run()


def test_the_largest_request_that_fits_is_served() -> None:
    bench = Bench(pages=8, page_tokens=4, max_model_len=32)
    bench.add(message("a", [1] * 7, max_tokens=25), message("b", [2] * 31, max_tokens=1))
    bench.run()


# ---- the budget ----


def test_a_long_prompt_is_split_by_the_budget() -> None:
    bench = Bench(max_num_batched_tokens=4, max_num_seqs=2)
    bench.add(message("a", range(1, 11), max_tokens=2))
    chunks = [bench.step()["a"] for _ in range(4)]
    assert [(c.start, c.end) for c in chunks] == [(0, 4), (4, 8), (8, 10), (10, 11)]
    assert [c.draw is not None for c in chunks] == [False, False, True, True]
    assert bench.stats.split_prompts == 1
    bench.run()


def test_the_rest_of_the_budget_goes_to_the_next() -> None:
    bench = Bench(max_num_batched_tokens=8, max_num_seqs=4)
    bench.add(message("a", [1] * 5), message("b", [2] * 5), message("c", [3] * 5))
    assert lengths(bench.step()) == {"a": 5, "b": 3}
    assert lengths(bench.step()) == {"a": 1, "b": 2, "c": 5}
    assert bench.stats.split_prompts == 1
    bench.run()


def test_an_answer_that_goes_on_makes_steps_smaller() -> None:
    bench = Bench(max_num_batched_tokens=8, max_mixed_tokens=6, max_num_seqs=2)
    bench.add(message("long", [1] * 20, max_tokens=2), message("a", [2] * 3))
    assert lengths(bench.step()) == {"long": 8}
    assert lengths(bench.step()) == {"long": 8}
    assert lengths(bench.step()) == {"long": 4, "a": 3}
    bench.run()
    bench.add(message("a", [2], max_tokens=9))
    bench.step()
    bench.add(message("long", [3] * 20))
    assert lengths(bench.step()) == {"a": 1, "long": 5}
    assert lengths(bench.step()) == {"a": 1, "long": 5}
    bench.run()


def test_running_requests_get_a_token_each_beside_a_long_prompt() -> None:
    bench = Bench(max_num_batched_tokens=4, max_num_seqs=3)
    bench.add(message("long", [1] * 20))
    assert lengths(bench.step()) == {"long": 4}
    bench.add(message("b", [2]), message("c", [3]))
    assert lengths(bench.step()) == {"long": 4}
    bench.scheduler.abort(["long"])
    bench.added.pop("long")
    bench.step()
    bench.add(message("long", [1] * 20))
    assert lengths(bench.step()) == {"b": 1, "c": 1, "long": 2}
    bench.run()


def test_no_more_than_max_num_seqs_run() -> None:
    bench = Bench(max_num_seqs=3)
    bench.add(*[message(str(i), [i + 1]) for i in range(5)])
    assert set(bench.step()) == {"0", "1", "2"}
    assert (bench.stats.running, bench.stats.waiting) == (3, 2)
    bench.run()


# ---- order ----


def test_fcfs_admits_in_order_of_arrival() -> None:
    bench = Bench(max_num_seqs=1)
    bench.add(message("b", [1], priority=5), message("a", [2], priority=-5))
    assert set(bench.step()) == {"b"}


def test_priority_admits_the_lowest_number_then_the_first_to_come() -> None:
    bench = Bench(max_num_seqs=1, scheduling_policy="priority")
    numbers = {"a": 3, "b": -1, "c": 0, "d": -1}
    bench.add(*[message(id, [1], max_tokens=1, priority=n) for id, n in numbers.items()])
    assert [next(iter(bench.step())) for _ in numbers] == ["b", "d", "c", "a"]


def test_priority_finds_an_urgent_request_behind_any_number_of_others() -> None:
    bench = Bench(max_num_seqs=1, scheduling_policy="priority")
    bench.add(*[message(str(i), [1], max_tokens=1) for i in range(600)])
    bench.add(message("urgent", [1], max_tokens=1, priority=-1))
    assert set(bench.step()) == {"urgent"}


def test_longest_prefix_admits_what_has_most_in_the_cache() -> None:
    bench = Bench(max_num_seqs=1, scheduling_policy="longest_prefix")
    bench.add(message("first", range(1, 9), max_tokens=1))
    bench.run()
    prompts = {"none": [9] * 8, "two": [1, 2, 9, 9], "six": [1, 2, 3, 4, 5, 6, 9], "also": [9]}
    bench.add(*[message(id, tokens, max_tokens=1) for id, tokens in prompts.items()])
    assert [next(iter(bench.step())) for _ in prompts] == ["six", "two", "none", "also"]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_head_that_finds_no_pages_is_not_overtaken(policy: str) -> None:
    bench = Bench(pages=8, page_tokens=2, max_num_seqs=4, scheduling_policy=policy)
    bench.add(message("a", [1] * 8, max_tokens=4))
    bench.step()
    bench.add(message("large", [2] * 10, max_tokens=2), message("small", [3], max_tokens=1))
    assert set(bench.step()) == {"a"}
    bench.run()


def test_a_stream_of_later_requests_delays_nobody() -> None:
    """Under fcfs the wait depends on those who came before alone."""
    steps = []
    for stream in (0, 3):
        bench = Bench(pages=10, page_tokens=2, max_num_seqs=3, max_num_batched_tokens=6)
        bench.add(
            message("before", [1] * 6, max_tokens=8), message("large", [2] * 10, max_tokens=9)
        )
        while not (bench.news["large"] and bench.news["large"][-1].finish_reason):
            for _ in range(stream):
                number = len(bench.added)
                bench.add(message(f"later {number}", [number % VOCABULARY] * 3, max_tokens=5))
            assert bench.step()
            assert len(bench.runner.plans) < 100
        steps.append(len(bench.runner.plans))
    assert steps[1] <= steps[0] + 10


def test_a_stream_of_less_urgent_requests_delays_nobody() -> None:
    bench = Bench(pages=10, page_tokens=2, max_num_seqs=2, scheduling_policy="priority")
    for number in range(40):
        bench.add(message(f"{number}", [number % VOCABULARY] * 3, max_tokens=5, priority=1))
        bench.step()
    bench.add(message("urgent", [2] * 10, max_tokens=9))
    for _ in range(20):
        bench.step()
    assert bench.news["urgent"][-1].finish_reason == "length"
    bench.run()


# ---- preemption ----


def preempted(policy: str, priorities: Sequence[int]) -> list[str]:
    """Three requests that fill the pages as they grow: who was sent back, in order."""
    bench = Bench(pages=7, page_tokens=2, max_num_seqs=3, scheduling_policy=policy)
    for i, priority in enumerate(priorities):
        bench.add(message("abc"[i], [i + 1], max_tokens=9, priority=priority))
    order: list[str] = []
    running: set[str] = set()
    while not bench.scheduler.idle:
        chunks = bench.step()
        ended = {id for id, news in bench.news.items() if news and news[-1].finish_reason}
        order += sorted(running - set(chunks))
        running = set(chunks) - ended
    assert bench.stats.preemptions == len(order)
    bench.run()
    return order


def test_the_last_to_come_is_preempted() -> None:
    assert preempted("fcfs", [2, 1, 0])[0] == "c"
    assert set(preempted("fcfs", [0, 0, 0])) == {"b", "c"}
    assert preempted("longest_prefix", [0, 0, 0])[0] == "c"


def test_the_least_urgent_is_preempted() -> None:
    assert preempted("priority", [2, 1, 0])[0] == "a"
    assert preempted("priority", [0, 1, 0])[0] == "b"
    assert preempted("priority", [1, 1, 1])[0] == "c"


def test_a_preempted_request_finds_what_it_published() -> None:
    bench = Bench(pages=6, page_tokens=2, max_num_seqs=2)
    bench.add(message("a", [1] * 3, max_tokens=6), message("b", [2] * 5, max_tokens=4))
    restarts = []
    computed = {}
    while not bench.scheduler.idle:
        for id, chunk in bench.step().items():
            if chunk.start != computed.get(id, 0):
                restarts.append((id, chunk.start))
            computed[id] = chunk.end
    assert bench.stats.preemptions == 1
    assert restarts == [("b", 4)], "of three pages the leaf alone was taken meanwhile"
    bench.run()


def test_nobody_is_admitted_where_a_running_request_will_need_the_page() -> None:
    bench = Bench(pages=4, page_tokens=2, max_num_seqs=4)
    bench.add(message("a", [1] * 4, max_tokens=4))
    bench.step()
    bench.add(message("b", [2], max_tokens=1))
    bench.add(message("c", [3], max_tokens=1))
    assert set(bench.step()) == {"a"}, "b would take the last page"
    bench.run()
    assert bench.stats.preemptions == 0


# ---- the prefix cache ----


def test_a_prompt_seen_before_is_read_from_the_cache() -> None:
    bench = Bench(page_tokens=4)
    bench.add(message("a", range(1, 11), max_tokens=1))
    bench.run()
    bench.add(
        message("b", [*range(1, 11), 7], max_tokens=1), message("c", range(1, 9), max_tokens=1)
    )
    chunks = bench.step()
    assert (chunks["b"].start, chunks["c"].start) == (8, 4), "a token is left to compute"
    assert [o.cached_tokens for id in "abc" for o in bench.news[id]] == [0, 8, 4]
    assert (bench.stats.prefix_queries, bench.stats.prefix_hits) == (10 + 11 + 8, 12)
    assert bench.stats.prompt_tokens == 10 + 3 + 4
    bench.run()


def test_output_is_cached_too() -> None:
    bench = Bench()
    bench.add(message("a", [1, 2, 3], max_tokens=6))
    bench.run()
    text = [1, 2, 3, *(t for o in bench.news["a"] for t in o.tokens)]
    bench.add(message("b", text, max_tokens=1))
    assert bench.step()["b"].start == 8, "the last token drawn was never computed"
    bench.run()


def test_without_prefix_caching_nothing_is_kept() -> None:
    bench = Bench(enable_prefix_caching=False)
    for id in "ab":
        bench.add(message(id, range(1, 11), max_tokens=3, leader="a" if id == "b" else None))
    assert lengths(bench.step()) == {"a": 10, "b": 10}, "there are no pages to wait for"
    bench.run()
    assert (bench.stats.pages_cached, bench.stats.prefix_hits) == (0, 0)


@pytest.mark.parametrize("other", [{"salt": "s"}, {"adapter": "s"}])
def test_another_tenant_or_adapter_finds_nothing(other: dict[str, Any]) -> None:
    bench = Bench()
    bench.add(message("a", range(1, 11)))
    bench.run()
    bench.add(message("b", range(1, 11), **other), message("c", range(1, 11)))
    chunks = bench.step()
    assert (chunks["b"].start, chunks["c"].start) == (0, 8)
    bench.run()


def test_followers_wait_for_their_leader_and_read_its_pages() -> None:
    bench = Bench(max_num_batched_tokens=4, max_num_seqs=4)
    prompt = range(1, 10)
    bench.add(message("a", prompt))
    bench.add(*[message(f"b{i}", prompt, choice=i, leader="a") for i in (1, 2)])
    bench.add(message("other", [7], max_tokens=1))
    assert lengths(bench.step()) == {"a": 4}
    assert lengths(bench.step()) == {"a": 4}
    assert lengths(bench.step()) == {"a": 1, "other": 1}, "others may pass the followers"
    assert lengths(bench.step()) == {"a": 1, "b1": 1, "b2": 1}
    assert [bench.news[id][0].cached_tokens for id in ("a", "b1", "b2")] == [0, 8, 8]
    bench.run()
    assert bench.stats.prompt_tokens == 9 + 1 + 1 + 1


@pytest.mark.parametrize("leader", ["gone", "self", "later"])
def test_nobody_waits_for_a_leader_who_did_not_come_first(leader: str) -> None:
    bench = Bench()
    bench.add(message("self", [1, 2, 3], leader=leader), message("later", [4, 5], leader="self"))
    assert set(bench.step()) == {"self"}
    bench.run()


def test_followers_go_on_when_their_leader_is_aborted() -> None:
    bench = Bench(max_num_batched_tokens=4, max_num_seqs=4)
    bench.add(message("a", [1] * 9), message("b", [1] * 9, leader="a"))
    bench.step()
    bench.scheduler.abort(["a"])
    bench.added.pop("a")
    assert bench.step()["b"].start == 4, "what the leader had published is there"
    bench.run()


def test_no_request_is_named_by_no_leader() -> None:
    bench = Bench()
    bench.add(message("", [1] * 5), message("a", [2] * 5))
    assert set(bench.step()) == {"", "a"}


# ---- log-probabilities ----


def test_prompt_logprobs_are_computed_not_read() -> None:
    bench = Bench(max_num_batched_tokens=4, max_num_seqs=2)
    prompt = range(1, 10)
    bench.add(message("a", prompt))
    bench.run()
    bench.add(message("b", prompt, prompt_logprobs=2, logprobs=1))
    assert bench.step()["b"].targets == (2, 3, 4, 5)
    assert bench.step()["b"].targets == (6, 7, 8, 9)
    last = bench.step()["b"]
    assert (last.start, last.targets, last.prompt_logprobs) == (8, (), None)
    assert [len(o.prompt_logprobs) for o in bench.news["b"]] == [4, 4, 0]
    assert bench.news["b"][0].cached_tokens == 0
    bench.run()


def test_prompt_logprobs_follow_no_leader() -> None:
    bench = Bench()
    bench.add(message("a", [1] * 5, prompt_logprobs=0))
    bench.add(message("b", [1] * 5, prompt_logprobs=0, leader="a"))
    assert lengths(bench.step()) == {"a": 5, "b": 5}
    bench.run()


def test_prompt_logprobs_of_one_token_are_none() -> None:
    bench = Bench()
    bench.add(message("a", [1], prompt_logprobs=3))
    assert bench.step()["a"].prompt_logprobs is None
    bench.run()


def test_prompt_logprobs_are_sent_once_in_spite_of_preemption() -> None:
    bench = Bench(pages=9, page_tokens=1, max_num_seqs=2, max_num_batched_tokens=2)
    bench.add(message("a", [1, 2], max_tokens=7), message("b", range(1, 7), 1, prompt_logprobs=1))
    starts = []
    while not bench.scheduler.idle:
        chunks = bench.step()
        starts += [chunks["b"].start] if "b" in chunks else []
    assert bench.stats.preemptions >= 1
    assert starts.count(0) >= 2, "it began again, and read nothing from the cache"
    bench.run()


# ---- the end ----


def test_an_error_ends_only_its_request() -> None:
    bench = Bench(fails={"b": "not a number"}, max_num_seqs=4)
    bench.add(*[message(id, [1, 2, 3]) for id in "abc"])
    bench.step()
    (output,) = bench.news.pop("b")
    assert output == Output("b", finish_reason="error", error="not a number")
    bench.added.pop("b")
    bench.run()


def test_aborts_leave_nothing() -> None:
    bench = Bench(pages=12, page_tokens=2, max_num_seqs=4, max_num_batched_tokens=4)
    bench.add(*[message(str(i), [i % 3 + 1] * (i % 7 + 1)) for i in range(200)])
    for _ in range(3):
        bench.step()
    bench.scheduler.abort(["nobody"])
    bench.scheduler.abort(str(i) for i in reversed(range(200)))
    bench.scheduler.abort(["0", "1"])
    bench.scheduler.check()
    assert bench.scheduler.idle
    assert (bench.stats.running, bench.stats.waiting, bench.stats.pages_held) == (0, 0, 0)
    assert bench.scheduler.plan() == StepPlan(())


def test_an_abort_during_a_step_is_final() -> None:
    bench = Bench()
    bench.add(message("a", [1] * 5), message("b", [2] * 5))
    plan = bench.scheduler.plan()
    result = bench.runner.run(plan)
    bench.scheduler.abort(["a"])
    bench.scheduler.add(message("a", [3] * 5))
    assert [o.id for o in bench.scheduler.commit(plan, result)] == ["b"]
    bench.scheduler.check()
    assert bench.stats.waiting == 1
    assert bench.step()["a"].tokens == (3,) * 5


@pytest.mark.parametrize(
    "wrong",
    [
        ChunkResult("a"),
        ChunkResult("a", token=1, prompt_logprobs=()),
    ],
)
def test_a_runner_that_leaves_something_out_is_found_out(wrong: ChunkResult) -> None:
    bench = Bench()
    bench.add(message("a", prompt_logprobs=0))
    plan = bench.scheduler.plan()
    [news] = bench.scheduler.commit(plan, StepResult((wrong,)))
    assert (news.finish_reason, news.error) == (
        "error",
        "taking its token failed with AssertionError",
    )
    assert bench.scheduler.idle and bench.stats.pages_held == 0


def test_stats() -> None:
    bench = Bench(pages=10, page_tokens=2, max_num_seqs=1, max_num_batched_tokens=4)
    bench.add(message("a", [1] * 5, max_tokens=3), message("b", [2]))
    for _ in range(3):
        bench.step()
    assert bench.stats == Stats(
        running=1,
        waiting=1,
        pages=10,
        pages_held=3,
        pages_cached=0,
        steps=3,
        preemptions=0,
        split_prompts=1,
        prompt_tokens=5,
        generated_tokens=2,
        prefix_queries=5,
        prefix_hits=0,
    )
    bench.run()
    assert (bench.stats.pages_held, bench.stats.generated_tokens) == (0, 7)
    assert bench.stats.pages_cached == 5


# ---- windows ----


def test_pages_outside_a_window_are_used_again() -> None:
    """By a request that needs three times as many without windows."""
    bench = Bench(pages=12, page_tokens=2, windows=(5, 3), max_num_batched_tokens=4, max_num_seqs=1)
    bench.add(message("a", range(1, 12), max_tokens=28))
    held = []
    while not bench.scheduler.idle:
        bench.step()
        held.append(bench.stats.pages_held)
    bench.run()
    assert max(held) <= 12 < 2 * (11 + 28) / 2 / 3
    assert bench.stats.preemptions == 0


def test_a_chunk_shows_the_pages_that_its_tokens_see() -> None:
    bench = Bench(page_tokens=2, windows=(None, 4), max_num_batched_tokens=6, max_num_seqs=1)
    bench.add(message("a", range(1, 16), max_tokens=1))
    shown = [[[p != ABSENT for p in t] for t in bench.step()["a"].tables] for _ in range(3)]
    # Token 6 sees 3 to 6, token 12 sees 9 to 12.
    assert shown == [
        [[True] * 3, [True] * 3],
        [[True] * 6, [False] + [True] * 5],
        [[True] * 8, [False] * 4 + [True] * 4],
    ]
    bench.run()


def test_a_prefix_is_found_with_its_windows_alone() -> None:
    bench = Bench(page_tokens=2, windows=(3, None))
    bench.add(message("a", range(1, 12), max_tokens=1))
    bench.run()
    bench.add(message("b", [*range(1, 12), 7], max_tokens=1))
    chunk = bench.step()["b"]
    assert chunk.start == 10
    assert [table.count(ABSENT) for table in chunk.tables] == [4, 0]
    bench.run()


def test_a_page_in_each_table_stays_free_for_who_runs() -> None:
    bench = Bench(pages=11, page_tokens=2, windows=(None, None, None), max_num_seqs=4)
    bench.add(message("a", [1] * 4, max_tokens=2))
    bench.step()
    bench.add(message("b", [2], max_tokens=1))
    assert set(bench.step()) == {"a"}, "b would take 3 of the last 5 pages"
    bench.run()
    assert bench.stats.preemptions == 0


def test_what_windows_let_go_of_is_not_asked_for() -> None:
    bench = Bench(
        pages=9, page_tokens=2, windows=(None, 3), max_num_seqs=1, max_num_batched_tokens=1
    )
    bench.add(message("a", [1] * 8, max_tokens=6))  # 7 pages, and 2 of them through the window
    with pytest.raises(ValueError, match="15 tokens need 10 pages; the cache has 9 of 2 tokens"):
        bench.scheduler.add(message("b", [1] * 8, max_tokens=7))
    bench.run()
    assert bench.stats.preemptions == 0


@STEADY
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 60), st.integers(1, 12)),
    st.lists(st.none() | st.integers(1, 20), min_size=1, max_size=3),
    st.booleans(),
)
def test_one_request_is_never_preempted_in_its_most_pages(
    sizes: tuple[int, int, int, int], windows: list[int | None], stateful: bool
) -> None:
    page_tokens, step, prompt, more = sizes
    bench = Bench(
        pages=most_pages(windows, page_tokens, prompt + more, step),
        page_tokens=page_tokens,
        max_model_len=100,
        windows=tuple(windows),
        states=2 if stateful else 0,
        max_num_seqs=1,
        max_num_batched_tokens=step,
    )
    bench.add(message("a", [i % 7 for i in range(prompt)], max_tokens=more))
    bench.run()
    assert bench.stats.preemptions == 0


def peak_pages(windows: Windows, page_tokens: int, tokens: int, step: int) -> int:
    """Most pages that one request with a prompt of so many tokens holds at once."""
    cache = PrefixCache(
        most_pages(windows, page_tokens, tokens + 1, step), page_tokens, True, windows
    )
    scheduler = Scheduler(SchedulerConfig(1, step), cache, STOP_IDS, tokens + 1)
    scheduler.add(message("a", range(tokens), max_tokens=1))
    peak = 0
    while not scheduler.idle:
        plan = scheduler.plan()
        peak = max(peak, cache.pages.held)
        drawn = tuple(ChunkResult(c.request, 1 if c.draw else None) for c in plan.chunks)
        scheduler.commit(plan, StepResult(drawn))
    return peak


@pytest.mark.parametrize("windows", [(None,), (40,), (None, 7, 33), (1, 2)])
@pytest.mark.parametrize("step", [1, 7, 16, 50])
def test_most_pages_is_not_much_more_than_a_long_request_takes(windows: Windows, step: int) -> None:
    for page_tokens in (1, 4, 5):
        most = most_pages(windows, page_tokens, 401, step)
        peak = peak_pages(windows, page_tokens, 400, step)
        assert peak <= most <= peak + 2 * len(windows)


# ---- states ----


def test_a_chunk_ends_with_a_page_so_that_its_state_can_be_published() -> None:
    bench = Bench(page_tokens=4, states=8, max_num_batched_tokens=10, max_num_seqs=2)
    bench.add(message("a", range(1, 12), max_tokens=2))
    chunks = [bench.step()["a"] for _ in range(3)]
    assert [(c.start, c.end) for c in chunks] == [(0, 8), (8, 11), (11, 12)]
    bench.run()
    assert bench.scheduler.cache.states.cached == 2, "after 8 and 12 tokens"
    bench = Bench(page_tokens=4, states=8, enable_prefix_caching=False)
    bench.add(message("a", range(1, 12), max_tokens=2))
    assert bench.step()["a"].end == 11, "there is nothing to publish"
    bench.run()


def test_a_prefix_is_found_where_there_is_a_state() -> None:
    bench = Bench(page_tokens=2, states=8, max_num_batched_tokens=8, max_num_seqs=2)
    bench.add(message("a", range(1, 12), max_tokens=1))
    bench.run()
    bench.add(message("b", range(1, 8), max_tokens=1))
    assert bench.step()["b"].start == 0, "the first state is that after 8 tokens"
    bench.run()
    bench.add(message("c", [*range(1, 10), 7], max_tokens=1))
    chunk = bench.step()["c"]
    assert (chunk.start, chunk.reads != ABSENT) == (8, True)
    bench.run()


def test_a_request_in_a_step_has_two_states() -> None:
    bench = Bench(page_tokens=2, states=5, max_num_seqs=4)
    bench.add(*[message(id, [ord(id) % 7] * 3, max_tokens=6) for id in "abc"])
    assert set(bench.step()) == {"a", "b"}
    while not bench.scheduler.idle:
        for chunk in bench.step().values():
            assert chunk.writes not in (ABSENT, chunk.reads)
    bench.run()
    assert bench.stats.preemptions == 0


@pytest.mark.parametrize("states", [0, 8])
def test_a_step_that_fails_after_it_wrote_is_run_again(states: int) -> None:
    class Failing(ToyRunner):
        def run(self, plan: StepPlan) -> StepResult:
            result = super().run(plan)
            if any(c.request == "bad" and c.start > 3 for c in plan.chunks):
                raise RuntimeError("too late")
            return result

    windows = (None, 3)
    cache = PrefixCache(64, 2, True, windows, states)
    runner = Failing(64, 2, windows=windows, states=states)
    engine = Engine(Scheduler(SchedulerConfig(), cache, STOP_IDS, 64), runner)
    good = [message(id, [ord(id) % 7] * 3, max_tokens=12) for id in "abc"]
    for add in [*good[:1], message("bad", [5] * 3, max_tokens=9), *good[1:]]:
        engine.add(add)
    news: dict[str, list[Output]] = {}
    while not engine.idle:
        for output in engine.step():
            news.setdefault(output.id, []).append(output)
    assert news["bad"][-1].error == "computing a step of it failed with RuntimeError"
    for add in good:
        assert story(news[add.id]) == alone(add, STOP_IDS, windows, states > 0)


# ---- random traffic ----

FULL, WINDOWED = (0, 1, 2), (4, 5, 6)


@pytest.mark.parametrize("wrong", ["table", "other table", "write", "reused", "state"])
def test_the_toy_model_notices(wrong: str) -> None:
    """Wrong pages, a missed write, a page reused too early, a state of other tokens."""
    runner = ToyRunner(pages=8, page_tokens=2, windows=(None, 4), states=4)

    def drawn(
        tokens: tuple[int, ...],
        start: int,
        full: tuple[int, ...] = FULL,
        reads: int = ABSENT,
        writes: int = 0,
    ) -> list[int | None]:
        """What several seeds draw, so that one that agrees by chance does not matter."""
        tables = (full, WINDOWED)
        draws = [Draw(seed) for seed in range(8)]
        chunks = [Chunk("a", start, tokens, tables, reads, writes, draw) for draw in draws]
        return [runner.run(StepPlan((chunk,))).chunks[0].token for chunk in chunks]

    drawn((1, 2, 3), 0, writes=3)
    drawn((1, 2, 3, 4), 0, writes=1)
    right = drawn((1, 2, 3, 4, 5), 0)
    assert drawn((5,), 4, reads=1) == right, "the cache is as good as the tokens"
    assert drawn((4, 5), 3, reads=3) == right
    if wrong == "table":
        assert drawn((5,), 4, (1, 0, 2), reads=1) != right
    elif wrong == "other table":
        assert drawn((5,), 4, (4, 5, 2), reads=1) != right
    elif wrong == "write":
        assert drawn((4, 5), 3, (0, 3, 2), reads=3) != right
    elif wrong == "reused":
        drawn((7, 7), 0, (1, 3, 3), writes=2)
        assert drawn((5,), 4, reads=1) != right
    else:
        assert drawn((5,), 4, reads=3) != right


def test_the_toy_model_looks_through_its_window() -> None:
    runner = ToyRunner(pages=4, page_tokens=2, windows=(3,))

    def run(start: int, *pages: int) -> StepResult:
        tokens = (1, 2, 3, 4, 5)[start:]
        return runner.run(StepPlan((Chunk("a", start, tokens, (pages,), draw=Draw(0)),)))

    assert run(0, 0, 1, 2) == run(4, ABSENT, 1, 2)
    with pytest.raises(AssertionError, match="page 0 of table 0 was let go"):
        run(3, ABSENT, 1, 2)


@dataclass
class Live:
    """What the outside knows of a request that has not ended."""

    add: Add
    expected: Story
    history: History
    arrival: int
    told: Story = field(default_factory=Story)
    computed: int | None = None
    first_start: int = 0
    news: int = 0

    @property
    def known(self) -> tuple[int, ...]:
        return (*self.add.tokens, *self.told.tokens)

    @property
    def owes_prompt_logprobs(self) -> bool:
        return len(self.told.prompt_logprobs) < len(self.expected.prompt_logprobs)


STEMS = st.sampled_from([(1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 3, 5, 8, 1, 2, 3), (4,) * 9])
PROMPTS = st.builds(
    lambda stem, cut, rest: (*stem[:cut], *rest),
    STEMS,
    st.integers(0, 7),
    st.lists(st.integers(0, VOCABULARY - 1), max_size=3),
)
PARAMS = st.fixed_dictionaries(
    {
        "ignore_eos": st.sampled_from([True, True, False]),
        "temperature": st.sampled_from([0.0, 1.0]),
    },
    optional={
        "min_tokens": st.integers(0, 4),
        "stop_token_ids": st.lists(st.integers(0, VOCABULARY - 1), max_size=2),
        "prompt_logprobs": st.integers(0, 2),
        "logprobs": st.integers(0, 2),
        "frequency_penalty": st.sampled_from([0.0, 0.5]),
        "logit_bias": st.just({3: 1.0}),
        "top_k": st.sampled_from([-1, 0, 5]),
    },
)


WINDOWS: list[Windows] = [
    (None,),
    (None,),
    (None, 4),
    (3, None, 1),
    (None, 6, None),
    (2,),
    (5, 3),
]


class SchedulerMachine(RuleBasedStateMachine):
    """Random traffic on few pages and states, watched from outside: plans, what is read and
    written, news.
    """

    ready = False

    @initialize(
        pages=st.integers(4, 9),
        page_tokens=st.sampled_from([1, 2, 3]),
        seats=st.integers(1, 5),
        more_budget=st.integers(0, 8),
        more_mixed=st.integers(0, 8),
        policy=st.sampled_from(sorted(POLICIES)),
        caching=st.booleans(),
        windows=st.sampled_from(WINDOWS),
        states=st.sampled_from([0, 0, 2, 4, 7]),
    )
    def start(
        self,
        pages: int,
        page_tokens: int,
        seats: int,
        more_budget: int,
        more_mixed: int,
        policy: str,
        caching: bool,
        windows: Windows,
        states: int,
    ) -> None:
        self.mixed = seats + min(more_budget, more_mixed)
        config = SchedulerConfig(seats, seats + more_budget, self.mixed, policy, caching)
        pages *= len(windows)
        self.windows = windows
        self.cache = PrefixCache(pages, page_tokens, caching, windows, states)
        self.scheduler = Scheduler(config, self.cache, STOP_IDS, max_model_len=24)
        self.failing: dict[str, str] = {}
        self.runner = ToyRunner(pages, page_tokens, self.failing, windows, states)
        self.seats = min(seats, states // 2) if states else seats
        self.live: dict[str, Live] = {}
        self.past: list[str] = []
        self.owners: dict[tuple[str, int], Key] = {}
        self.preemptions = 0
        self.count = self.arrivals = 0
        self.ready = True

    @rule(
        prompt=PROMPTS,
        params=PARAMS,
        max_tokens=st.integers(1, 12),
        choices=st.integers(1, 3),
        salt=st.sampled_from(["", "", "s"]),
        adapter=st.sampled_from(["", "", "s"]),
        priority=st.integers(-1, 1),
        fails=st.sampled_from([False] * 9 + [True]),
        again=st.booleans(),
    )
    def add(
        self,
        prompt: tuple[int, ...],
        params: dict[str, Any],
        max_tokens: int,
        choices: int,
        salt: str,
        adapter: str,
        priority: int,
        fails: bool,
        again: bool,
    ) -> None:
        leader = None
        for choice in range(choices):
            if again and self.past:
                id = self.past.pop()
            else:
                id, self.count = f"{self.count}", self.count + 1
            add = Add(
                id,
                prompt,
                SamplingParams(**params),
                seed=self.count % 2,
                max_tokens=max_tokens,
                choice=choice,
                leader=leader,
                priority=priority,
                salt=salt,
                adapter=adapter,
            )
            tokens = len(prompt) + max_tokens
            budget = self.scheduler.config.max_num_batched_tokens
            pages = most_pages(self.windows, self.cache.page_tokens, tokens, budget)
            if not prompt or tokens > 24 or pages > self.cache.pages.count:
                with pytest.raises(
                    ValueError, match="at least 1 is needed|limit is 24|the cache has"
                ):
                    self.scheduler.add(add)
                return
            self.scheduler.add(add)
            stateful = self.cache.states.count > 0
            expected = alone(add, STOP_IDS, self.windows, stateful)
            history = History(self.windows, stateful)
            history.read([*prompt, *expected.tokens])
            self.live[id] = Live(add, expected, history, self.arrivals)
            self.arrivals += 1
            if fails:
                self.failing[id] = "not a number"
            leader = leader or id

    @precondition(lambda self: self.live)
    @rule(steps=st.integers(1, 6), fails=st.sampled_from([False, False, False, True]))
    def step(self, steps: int, fails: bool) -> None:
        for _ in range(steps):
            self.one_step(fails=fails)

    @precondition(lambda self: len(self.live) > 3)
    @rule(data=st.data(), during_a_step=st.booleans())
    def abort(self, data: st.DataObject, during_a_step: bool) -> None:
        some = data.draw(st.lists(st.sampled_from(sorted(self.live)), max_size=2, unique=True))
        if during_a_step:
            self.one_step(some)
        else:
            self.forget(some)

    def forget(self, ids: list[str]) -> None:
        self.scheduler.abort([*ids, "nobody"])
        for id in ids:
            self.end(id)

    def end(self, id: str) -> None:
        del self.live[id]
        self.failing.pop(id, None)
        self.past.append(id)

    def one_step(self, aborted: Sequence[str] = (), fails: bool = False) -> None:
        """fails: at its end, so that it is run again chunk by chunk."""
        self.ready = False  # until nothing was found wrong
        plan = self.scheduler.plan()
        self.check_plan(plan)
        result = self.runner.run(plan)
        if fails:
            alone = [self.runner.run(StepPlan((chunk,))) for chunk in plan.chunks]
            result = StepResult(tuple(part.chunks[0] for part in alone))
        self.forget(list(aborted))
        outputs = self.scheduler.commit(plan, result)
        self.scheduler.check()
        assert [o.id for o in outputs] == [c.request for c in plan.chunks if c.request in self.live]
        for output in outputs:
            self.hear(output)
        assert self.scheduler.idle == (not self.live)
        self.ready = True

    def check_plan(self, plan: StepPlan) -> None:
        config = self.scheduler.config
        assert plan.chunks or not self.live, "requests wait, and nothing is computed"
        assert plan.tokens <= config.max_num_batched_tokens
        assert len(plan.chunks) <= self.seats
        ids = [chunk.request for chunk in plan.chunks]
        assert len(set(ids)) == len(ids)
        preempted = self.scheduler.stats.preemptions > self.preemptions
        self.preemptions = self.scheduler.stats.preemptions
        if preempted:
            # Whoever is not in the plan lost its pages, or never had any, or waits.
            for id, live in self.live.items():
                live.computed = live.computed if id in ids else None
        if any(self.goes_on(chunk, self.live[chunk.request]) for chunk in plan.chunks):
            assert plan.tokens <= self.mixed
        for chunk in plan.chunks:
            self.check_chunk(chunk, self.live[chunk.request])
            self.check_tables(chunk, self.live[chunk.request].history)
        self.check_conflicts(plan)

    def goes_on(self, chunk: Chunk, live: Live) -> bool:
        """Whether it ran already and has one token to compute."""
        return live.computed is not None and chunk.start == len(live.known) - 1

    def check_chunk(self, chunk: Chunk, live: Live) -> None:
        n = self.cache.page_tokens
        known = live.known
        if live.computed is None:
            assert chunk.start % n == 0
            assert chunk.start < len(known)
            if not self.cache.enabled or live.owes_prompt_logprobs:
                assert chunk.start == 0
            leader = self.live.get(live.add.leader or "nobody")
            waits = self.cache.enabled and not live.expected.prompt_logprobs
            # Another may have come later under its leader's id.
            if waits and leader is not None and leader.arrival < live.arrival:
                assert leader.told.tokens, "its leader's prompt is not computed yet"
        else:
            assert chunk.start == live.computed
        if live.news == 0:
            live.first_start = chunk.start
        live.computed = chunk.end
        assert chunk.tokens == known[chunk.start : chunk.end]
        assert chunk.tokens
        if self.cache.enabled and self.cache.states.count:
            assert chunk.end % n == 0 or chunk.end // n == chunk.start // n
        assert (chunk.draw is not None) == (chunk.end == len(known))
        if live.owes_prompt_logprobs:
            assert chunk.targets == live.add.tokens[chunk.start + 1 : chunk.end + 1]
        else:
            assert chunk.targets == ()

    def check_tables(self, chunk: Chunk, history: History) -> None:
        """Pages that are needed and no others, and in them and in the state what should be."""
        n = self.cache.page_tokens
        begin = chunk.start // n * n  # the page before it is kept in any case
        for window, pages in zip(self.windows, chunk.tables, strict=True):
            oldest = 0 if window is None else max(0, min(begin - window + 1, begin - 1))
            assert pages.count(ABSENT) == oldest // n
            assert set(pages[: oldest // n]) <= {ABSENT}
            assert len(pages) * n >= chunk.end
        held = [page for pages in chunk.tables for page in pages if page != ABSENT]
        assert len(set(held)) == len(held)
        places = self.runner.visible(chunk, chunk.start, chunk.start)
        found = [self.runner.slots[place] for place in places]
        assert found == history.visible(chunk.start, chunk.start)
        if chunk.reads != ABSENT:
            assert self.runner.states[chunk.reads] == history.states[chunk.start]

    def check_conflicts(self, plan: StepPlan) -> None:
        """Nobody writes what is published or what another reads, nor reads another tenant's."""
        reads = {c.request: self.reads(c) for c in plan.chunks}
        published = {("page", page) for page in self.cache._of_page}
        published |= {("state", state) for state in self.cache._of_state}
        taken: set[tuple[str, int]] = set()
        for chunk in plan.chunks:
            writes = self.writes(chunk)
            assert not writes & taken, "written twice"
            taken |= writes
            for other, read in reads.items():
                shared = writes & read
                assert not shared or other == chunk.request, "written under a reader"
                assert not any(kind == "state" for kind, _ in shared), "what it reads is lost"
            assert not writes & published, "what is published is written"
            self.owners.update(dict.fromkeys(writes, self.key(chunk)))
        for chunk in plan.chunks:
            owners = {self.owners[place] for place in reads[chunk.request]}
            assert owners <= {self.key(chunk)}, "reads what another tenant or adapter wrote"

    def reads(self, chunk: Chunk) -> set[tuple[str, int]]:
        """Pages and states."""
        slots = self.runner.visible(chunk, chunk.start, chunk.end)
        pages = {("page", slot // self.cache.page_tokens) for slot in slots}
        return pages | ({("state", chunk.reads)} if chunk.reads != ABSENT else set())

    def writes(self, chunk: Chunk) -> set[tuple[str, int]]:
        first, last = chunk.start // self.cache.page_tokens, chunk.end - 1
        last = last // self.cache.page_tokens + 1
        pages = {("page", page) for table in chunk.tables for page in table[first:last]}
        return pages | ({("state", chunk.writes)} if chunk.writes != ABSENT else set())

    def key(self, chunk: Chunk) -> Key:
        add = self.live[chunk.request].add
        return add.salt, add.adapter

    def hear(self, output: Output) -> None:
        live = self.live[output.id]
        if output.id in self.failing:
            assert output == Output(output.id, finish_reason="error", error="not a number")
            self.end(output.id)
            return
        assert output.cached_tokens == (0 if live.news else live.first_start)
        live.news += 1
        told, expected = live.told, live.expected
        told.tokens += output.tokens
        told.logprobs += output.logprobs
        told.prompt_logprobs += output.prompt_logprobs
        told.finish_reason, told.stop_reason = output.finish_reason, output.stop_reason
        assert told.tokens == expected.tokens[: len(told.tokens)]
        assert told.prompt_logprobs == expected.prompt_logprobs[: len(told.prompt_logprobs)]
        if output.finish_reason is not None:
            assert told == expected
            self.end(output.id)

    @invariant()
    def agrees(self) -> None:
        if not self.ready:
            return
        self.scheduler.check()
        stats = self.scheduler.stats
        assert stats.running + stats.waiting == len(self.live)
        for request in self.scheduler._running:
            n = self.cache.page_tokens
            full = request.computed // n * n
            # A state is published where a chunk ended with a page.
            if self.cache.enabled and (full == request.computed or not self.cache.states.count):
                text = [*request.tokens[:full], -1]
                assert self.cache.matched_tokens(request.key, text) == full, "not published"

    def teardown(self) -> None:
        """Everybody finishes in a bounded number of steps, and nothing is left."""
        if not self.ready:
            return
        most = 2 * sum(len(live.add.tokens) + live.add.max_tokens for live in self.live.values())
        for _ in range(most):
            if self.live:
                self.one_step()
        assert not self.live, f"not done after {most} steps"
        for pool in (self.cache.pages, self.cache.states):
            assert (pool.held, pool.available) == (0, pool.count)
            assert self.cache.enabled or not pool.cached


class TestScheduler(SchedulerMachine.TestCase):
    settings = MODEST


@pytest.mark.slow
def test_random_traffic_at_length() -> None:
    run_state_machine_as_test(SchedulerMachine, settings=MANY)


_chunk, _give_back, _commit = Scheduler._chunk, Scheduler._give_back, Scheduler._commit
_reserve, _remember = Scheduler._reserve, Scheduler._remember
_edge, _publish, _slide = PrefixCache._edge, PrefixCache.publish, PrefixCache.slide
_first_visible, _gap = PrefixCache.first_visible, PrefixCache._gap
_release = Pages.release


def _release_twice(self: Pages, pages: Sequence[int]) -> None:
    _release(self, pages)
    self._free += [p for p in pages if p not in self._cached and not self._holders[p]]


def _publish_what_is_not_computed(
    self: PrefixCache,
    key: Key,
    tokens: Sequence[int],
    tables: Sequence[Table],
    first: int,
    last: int,
    state: int = ABSENT,
) -> int:
    last = min(len(tokens) // self.page_tokens, len(tables[0].pages))
    return _publish(self, key, tokens, tables, first, last, state)


def _publish_what_is_not_full(
    self: PrefixCache,
    key: Key,
    tokens: Sequence[int],
    tables: Sequence[Table],
    first: int,
    last: int,
    state: int = ABSENT,
) -> int:
    padded = [*tokens, *[0] * self.page_tokens]
    last = min(last + 1, len(tables[0].pages))
    return _publish(self, key, padded, tables, first, last, state)


def _same_for_all_salts(
    self: PrefixCache, node: Any, key: Key, tokens: Sequence[int], page: int
) -> Any:
    return _edge(self, node, ("", key[1]), tokens, page)


def _same_for_all_adapters(
    self: PrefixCache, node: Any, key: Key, tokens: Sequence[int], page: int
) -> Any:
    return _edge(self, node, (key[0], ""), tokens, page)


def _slide_too_early(self: PrefixCache, tables: Sequence[Table], computed: int) -> None:
    most = len(tables[0].pages) * self.page_tokens
    _slide(self, tables, min(computed + self.page_tokens, most))


def _slide_never(self: PrefixCache, tables: Sequence[Table], computed: int) -> None:
    pass


def _slide_and_keep(self: PrefixCache, tables: Sequence[Table], computed: int) -> None:
    for table in tables:
        for page in table.pages[table.first :]:
            self.pages.hold(page)
    before = [table.first for table in tables]
    _slide(self, tables, computed)
    for table, first in zip(tables, before, strict=True):
        self.pages.release(table.pages[max(first, table.first) :])


def _see_a_page_less(self: PrefixCache, window: int | None, pages: int) -> int:
    first = _first_visible(self, window, pages)
    return first if window is None else min(first + 1, max(0, pages - 1))


def _mind_no_gap(self: PrefixCache, path: Sequence[Any], depth: int) -> int | None:
    return depth - 1 if self.states.count and path[depth - 1].state == ABSENT else None


def _mind_no_state(self: PrefixCache, path: Sequence[Any], depth: int) -> int | None:
    states, self.states = self.states, Pages(0, lambda page: None)
    gap = _gap(self, path, depth)
    self.states = states
    return gap


def _leave_the_others(self: PrefixCache, node: Any) -> None:
    pass


def _hold_but_leave_evictable(self: Pages, page: int) -> None:
    self._holders[page] += 1


def _mind_no_answers(self: Scheduler) -> int:
    return self.config.max_num_batched_tokens


def _skip_a_token(self: Scheduler, request: Request, count: int) -> Chunk:
    if request.computed and count > 1:
        request.computed += 1
        count -= 1
    return _chunk(self, request, count)


def _read_another_state(self: Scheduler, request: Request, count: int) -> Chunk:
    chunk = _chunk(self, request, count)
    if chunk.reads == ABSENT:
        return chunk
    fields = {name: getattr(chunk, name) for name in chunk.__struct_fields__}
    return Chunk(**{**fields, "reads": (chunk.reads + 1) % self.cache.states.count})


def _write_in_place(self: Scheduler, request: Request, count: int, spare: int = 0) -> bool:
    if not _reserve(self, request, count, spare):
        return False
    self.cache.states.release(request.states[1:])
    del request.states[1:]
    return True


def _write_in_place_what_is_its_own(
    self: Scheduler, request: Request, count: int, spare: int = 0
) -> bool:
    own = request.states and not self.cache.states.published(request.states[0])
    return (_write_in_place if own else _reserve)(self, request, count, spare)


def _end_anywhere(self: Scheduler, request: Request, count: int) -> int:
    return count


def _publish_the_state_anywhere(self: Scheduler, request: Request, end: int) -> None:
    """As if a chunk that ends within a page ended where the page begins."""
    _remember(self, request, end)
    pages = end // self.cache.page_tokens
    if not (pages and request.states and self.cache.enabled):
        return
    (state,) = request.states
    if not self.cache.states.published(state):
        node, _ = self.cache._of_page[request.tables[0].pages[pages - 1]]
        request.states = [self.cache._publish_state(node, state)]


def _leave_computed(self: Scheduler, request: Request) -> None:
    computed = request.computed
    _give_back(self, request)
    request.computed = computed


def _keep_states(self: Scheduler, request: Request) -> None:
    for state in request.states:
        self.cache.states.hold(state)
    _give_back(self, request)


def _send_prompt_logprobs_again(
    self: Scheduler, request: Request, chunk: Chunk, outcome: ChunkResult
) -> Output:
    request.prompt_logprobs_sent = min(request.prompt_logprobs_sent, chunk.start)
    return _commit(self, request, chunk, outcome)


def _follow_nobody(self: Scheduler, request: Request) -> bool:
    return False


def _reserve_too_little(self: Scheduler, request: Request, count: int, spare: int = 0) -> bool:
    return _reserve(self, request, count - 1, spare)


MUTANTS = [
    (Pages, "release", _release_twice),
    (Pages, "hold", _hold_but_leave_evictable),
    (PrefixCache, "publish", _publish_what_is_not_computed),
    (PrefixCache, "publish", _publish_what_is_not_full),
    (PrefixCache, "_edge", _same_for_all_salts),
    (PrefixCache, "_edge", _same_for_all_adapters),
    (PrefixCache, "slide", _slide_too_early),
    (PrefixCache, "slide", _slide_never),
    (PrefixCache, "slide", _slide_and_keep),
    (PrefixCache, "first_visible", _see_a_page_less),
    (PrefixCache, "_gap", _mind_no_gap),
    (PrefixCache, "_gap", _mind_no_state),
    (PrefixCache, "_withdraw", _leave_the_others),
    (Scheduler, "_budget", _mind_no_answers),
    (Scheduler, "_chunk", _skip_a_token),
    (Scheduler, "_chunk", _read_another_state),
    (Scheduler, "_give_back", _leave_computed),
    (Scheduler, "_give_back", _keep_states),
    (Scheduler, "_commit", _send_prompt_logprobs_again),
    (Scheduler, "_follows_a_prompt", _follow_nobody),
    (Scheduler, "_reserve", _reserve_too_little),
    (Scheduler, "_reserve", _write_in_place),
    (Scheduler, "_reserve", _write_in_place_what_is_its_own),
    (Scheduler, "_aligned", _end_anywhere),
    (Scheduler, "_remember", _publish_the_state_anywhere),
]


@pytest.mark.parametrize(
    ("owner", "method", "mutant"), MUTANTS, ids=[m[2].__name__ for m in MUTANTS]
)
def test_the_machine_catches(
    owner: type, method: str, mutant: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From outside alone: the scheduler does not check itself here."""
    monkeypatch.setattr(owner, method, mutant)
    monkeypatch.setattr(Scheduler, "check", lambda self: None)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(SchedulerMachine, settings=CATCH)
