"""What requests say and what their answers become, against a server that says what it is told."""

import dataclasses
import json

import pytest

from pieria.bench.load import Pace, Target, drive, model_name
from pieria.bench.metrics import Outcome
from pieria.bench.workload import Conversation, Turn
from pieria.clock import RealTime
from tests.bench.fake_server import Body, Events, letters, piece, serving, usage
from tests.server.fakes import ToyTokenizer

TOY = ToyTokenizer()


def asked(count: int, prompt: tuple[int, ...] = (1, 2, 3), output: int = 4) -> list[Conversation]:
    return [Conversation((Turn(prompt, output),)) for _ in range(count)]


def target(url: str, **changes: object) -> Target:
    made = Target(url, "m", TOY, {"temperature": 0.0, "ignore_eos": True})  # type: ignore[arg-type]
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


async def run(
    answer: object, conversations: list[Conversation], **changes: object
) -> tuple[list[Outcome], list[Body]]:
    async with serving(answer) as server:  # type: ignore[arg-type]
        told = target(server.url, **changes)
        arrivals = [0.0] * len(conversations)
        outcomes, seconds = await drive(told, conversations, arrivals, None, RealTime())
    assert seconds > 0
    return outcomes, server.bodies


async def test_what_is_sent_and_what_comes_back() -> None:
    [outcome], [body] = await run(letters, asked(1))
    assert body == {
        "model": "m",
        "prompt": [1, 2, 3],
        "max_tokens": 4,
        "temperature": 0.0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert (outcome.prompt_tokens, outcome.output_tokens, outcome.text) == (3, 4, "aaaz")
    assert outcome.error == ""
    assert len(outcome.gaps) == 3
    assert outcome.ttft >= 0.01  # the server thinks that long
    assert outcome.started >= 0


async def test_never_more_at_a_time_than_allowed() -> None:
    async with serving() as server:
        done: list[None] = []
        outcomes, _ = await drive(
            target(server.url), asked(12), [0.0] * 12, 3, RealTime(), lambda: done.append(None)
        )
        assert server.most == 3
        await drive(target(server.url), asked(12), [0.0] * 12, None, RealTime())
        assert server.most > 3
    assert len(outcomes) == len(done) == 12
    assert not any(outcome.error for outcome in outcomes)


async def test_requests_begin_when_they_are_to() -> None:
    async with serving() as server:
        outcomes, seconds = await drive(
            target(server.url), asked(3), [0.2, 0.0, 0.1], None, RealTime()
        )
    assert seconds >= 0.2
    started = sorted(outcome.started for outcome in outcomes)
    assert started[1] >= 0.1 and started[2] >= 0.2


async def test_a_turn_has_all_that_was_said_before() -> None:
    turns = (Turn((65, 66), 2), Turn((67,), 3), Turn((68,), 1))
    outcomes, bodies = await run(letters, [Conversation(turns)])
    assert [TOY.decode(body["prompt"]) for body in bodies] == ["AB", "ABazC", "ABazCaazD"]
    assert [outcome.output_tokens for outcome in outcomes] == [2, 3, 1]
    _, bodies = await run(letters, [Conversation(turns)], tokenize_prompt=False)
    assert [body["prompt"] for body in bodies] == ["AB", "ABazC", "ABazCaazD"]


def refuse(body: Body) -> Events:
    yield {"status": 400, "error": {"error": {"message": "too long by far"}}}


def end_early(body: Body) -> Events:
    yield piece("a")


def stop_early(body: Body) -> Events:
    yield piece("a", "stop")
    yield usage(3, 1)
    yield "[DONE]"


def break_down(body: Body) -> Events:
    yield piece("a")
    yield {"error": {"message": "the engine is gone"}}
    yield "[DONE]"


def mumble(body: Body) -> Events:
    yield "{"
    yield "[DONE]"


def hang_up(body: Body) -> Events:
    yield piece("a")
    yield b"ff\r\ndata"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (refuse, "400: too long by far"),
        (end_early, "the stream ended early"),
        (stop_early, "1 tokens came of the 4 that were asked for"),
        (break_down, "the engine is gone"),
        (mumble, "an event that cannot be read"),
        (hang_up, "cut short"),
    ],
)
async def test_failures_say_why(answer: object, message: str) -> None:
    outcomes, _ = await run(answer, asked(2))
    assert len(outcomes) == 2
    assert all(message in outcome.error for outcome in outcomes)


async def test_a_short_answer_is_fine_where_the_model_may_end_it() -> None:
    [outcome], _ = await run(stop_early, asked(1), whole=False)
    assert (outcome.error, outcome.output_tokens) == ("", 1)


async def test_after_a_failed_turn_the_others_are_not_sent() -> None:
    turns = (Turn((1,), 4), Turn((2,), 4), Turn((3,), 4))
    outcomes, bodies = await run(stop_early, [Conversation(turns)])
    assert len(bodies) == 1
    assert [outcome.error[:8] for outcome in outcomes] == ["1 tokens", "not sent", "not sent"]


async def test_a_reason_to_end_is_no_token_of_its_own() -> None:
    def answer(body: Body) -> Events:
        yield from (piece("a"), piece(""), piece("b"), piece("", "length"), usage(3, 3), "[DONE]")

    [outcome], _ = await run(answer, asked(1, output=3))
    assert len(outcome.gaps) == 2
    assert outcome.error == ""


async def test_without_usage_tokens_are_counted() -> None:
    def answer(body: Body) -> Events:
        yield from (piece("ab"), piece("c", "stop"), "[DONE]")

    [outcome], _ = await run(answer, asked(1), whole=False)
    assert (outcome.prompt_tokens, outcome.output_tokens) == (3, 3)


async def test_the_models_name() -> None:
    clock = RealTime()
    async with serving(models=("a", "b")) as server:
        assert await model_name(server.url, (), "b", clock) == "b"
        with pytest.raises(ValueError, match="the server has a, b; give one as served_model_name"):
            await model_name(server.url, (), "c", clock)
    async with serving(models=("only",)) as server:
        assert await model_name(server.url, (), "path/to/it", clock) == "only"
    with pytest.raises(OSError, match="v1/models: ConnectionRefused"):
        await model_name(server.url, (), "c", clock)


def test_arrivals() -> None:
    some = asked(1000)
    assert Pace().arrivals(some, 0) == [0.0] * 1000
    for burstiness in (0.25, 1.0, 4.0):
        times = Pace(rate=10, burstiness=burstiness).arrivals(some, 0)
        gaps = [b - a for a, b in zip(times, times[1:], strict=False)]
        mean = sum(gaps) / len(gaps)
        variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
        assert mean == pytest.approx(0.1, rel=0.2)
        # Of a Gamma distribution of this shape.
        assert variance == pytest.approx(mean**2 / burstiness, rel=0.4)
    assert Pace(rate=10).arrivals(some, 1) != Pace(rate=10).arrivals(some, 0)
    traced = [dataclasses.replace(c, arrival_seconds=i * 2.0) for i, c in enumerate(asked(3))]
    assert Pace().arrivals(traced, 0) == [0.0, 2.0, 4.0]


async def test_numbers_of_a_body_are_json() -> None:
    _, [body] = await run(letters, asked(1), body={"top_k": 3, "stop": ["x"]})
    assert json.loads(json.dumps(body))["stop"] == ["x"]
