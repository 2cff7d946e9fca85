"""Generation: news of many prompts at once, in an order that can be used, measured and given up."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from pieria.engine.sampling_params import SamplingParams
from pieria.engine.text import Delta, EngineDead
from pieria.server.access import Gate
from pieria.server.course import Course
from pieria.server.errors import ApiError
from pieria.server.exchange import Exchange
from pieria.server.generate import _merged, _prompt_first, collect, generate
from pieria.server.job import Job, Prompt
from pieria.server.keys import Key
from pieria.server.limits import Account
from tests.server.fakes import Toy
from tests.server.test_metrics import samples


def exchange(toy: Toy) -> Exchange:
    async def send(message: object) -> None:
        raise AssertionError

    toy.state.served = toy.served
    return Exchange(
        id="id",
        account=Account(None, toy.clock),
        body=b"",
        path={},
        arrived=toy.clock.now(),
        state=toy.state,
        config=toy.config,
        clock=toy.clock,
        send=send,
        gate=Gate(toy.config, toy.clock),
        course=Course(),
        routes=(),
    )


def job(*texts: str, **params: object) -> Job:
    prompts = tuple(Prompt(text, list(text.encode())) for text in texts)
    return Job(prompts, SamplingParams(**{"max_tokens": 3, **params}))


async def test_every_prompt_has_its_choices_in_order() -> None:
    toy = Toy("one", "two")
    collected = await collect(job("a", "bcd", n=2), exchange(toy), toy.served)
    assert [choice.text for choice in collected.choices] == ["one", "two", "one", "two"]
    assert {choice.finish_reason for choice in collected.choices} == {"length"}
    usage = collected.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (4, 12, 16)
    assert usage.prompt_tokens_details.cached_tokens == 6


async def test_prompts_run_at_the_same_time() -> None:
    toy = Toy("one")
    toy.client.hold_after = 1
    news = generate(job("a", "b", "c"), exchange(toy), toy.served, 1)
    first = [await news.__anext__() for _ in range(3)]
    assert sorted(prompt for prompt, _ in first) == [0, 1, 2]
    assert toy.client.in_flight == 3
    await news.aclose()
    assert (toy.client.in_flight, len(toy.client.aborted)) == (0, 3)
    assert samples(toy.state.metrics)["pieria:request_success_total{finished_reason=abort}"] == 3


async def test_one_prompt_that_fails_ends_them_all(caplog: pytest.LogCaptureFixture) -> None:
    toy = Toy("one")
    toy.client.break_after = 1
    with pytest.raises(ApiError) as raised:
        await collect(job("a", "b", n=2), exchange(toy), toy.served)
    assert raised.value.status == 500
    assert "the logits are not finite" in raised.value.message
    assert "the logits are not finite" in caplog.text
    assert toy.client.in_flight == 0
    assert samples(toy.state.metrics)["pieria:request_success_total{finished_reason=error}"] >= 1


@pytest.mark.parametrize(
    ("limit", "failure", "status", "message"),
    [(3, None, 429, "as many requests as it takes"), (None, "boom", 503, "engine has failed")],
)
async def test_an_engine_that_takes_nothing(
    limit: int | None, failure: str | None, status: int, message: str
) -> None:
    toy = Toy(limit=limit)
    if failure is not None:
        toy.client.refuse = EngineDead(failure)
    with pytest.raises(ApiError, match=message) as raised:
        await collect(job("a", n=4), exchange(toy), toy.served)
    assert raised.value.status == status
    assert "retry-after" in raised.value.headers
    assert "boom" not in raised.value.message


async def test_what_the_engine_finds_wrong_is_the_clients_fault() -> None:
    toy = Toy()
    with pytest.raises(ApiError, match="maximum context length is 4096 tokens.* 5000") as raised:
        await collect(job("x" * 5000), exchange(toy), toy.served)
    assert raised.value.status == 400


@pytest.mark.parametrize(("text", "limit"), [("abcd", 1), ("x" * 5000, None)])
async def test_a_key_does_not_pay_for_what_is_refused(text: str, limit: int | None) -> None:
    toy = Toy(limit=limit)
    asked = exchange(toy)
    account = Account(Key("a", "0" * 64, tokens_per_minute=9), toy.clock)
    object.__setattr__(asked, "account", account)
    with pytest.raises(ApiError):
        await collect(job(text, n=2), asked, toy.served)
    assert account.prompt_tokens == 0
    account.begin()
    account.end()
    toy.served.engine.limit = None
    await collect(job("abcd", max_tokens=12), asked, toy.served)
    assert (account.prompt_tokens, account.generated_tokens) == (4, 12)
    with pytest.raises(ApiError, match="all of its tokens per minute"):
        account.begin()


async def test_only_the_prompt_is_wanted() -> None:
    toy = Toy("one")
    wanted = job("ab", max_tokens=1, prompt_logprobs=0, logprobs=0)
    wanted = Job(wanted.prompts, wanted.params, prompt_only=True)
    collected = await collect(wanted, exchange(toy), toy.served)
    (choice,) = collected.choices
    assert (choice.text, choice.tokens, choice.logprobs) == ("", [], [])
    assert (choice.finish_reason, collected.usage.completion_tokens) == ("length", 0)
    (of_prompt,) = collected.prompt_logprobs
    assert [one and one.token for one in of_prompt] == [None, ord("b")]


async def test_times_are_measured_for_each_choice() -> None:
    toy = Toy("one")
    await collect(job("a", "b", n=2, max_tokens=3), exchange(toy), toy.served)
    found = samples(toy.state.metrics)
    assert found["pieria:time_to_first_token_seconds_count"] == 4
    assert found["pieria:inter_token_latency_seconds_count"] == 8
    assert found["pieria:e2e_request_latency_seconds_count"] == 4
    assert found["pieria:request_success_total{finished_reason=length}"] == 4


async def given(*deltas: Delta) -> AsyncGenerator[Delta, None]:
    for delta in deltas:
        yield delta


async def test_nothing_comes_before_the_prompts_logprobs() -> None:
    early, late = Delta(1, "early"), Delta(1, "late")
    carrier = Delta(0, "carrier", prompt_logprobs=(None,))
    ordered = [d async for d in _prompt_first(given(early, Delta(0), carrier, late))]
    assert ordered == [carrier, early, Delta(0), late]


async def test_the_first_error_closes_every_stream() -> None:
    closed: list[str] = []

    async def stream(name: str, fails: bool) -> AsyncGenerator[Delta, None]:
        try:
            yield Delta(0, name)
            if fails:
                raise KeyError(name)
            await asyncio.sleep(3600)
        finally:
            closed.append(name)

    with pytest.raises(KeyError, match="b"):
        async for _ in _merged([stream("a", False), stream("b", True), stream("c", False)]):
            pass
    assert sorted(closed) == ["a", "b", "c"]


async def test_a_stream_that_is_not_read_is_not_drained() -> None:
    made = 0

    async def stream() -> AsyncGenerator[Delta, None]:
        nonlocal made
        while True:
            made += 1
            yield Delta(0)

    merged = _merged([stream(), stream()])
    await merged.__anext__()
    await asyncio.sleep(0.05)
    await merged.aclose()
    assert made < 1000
