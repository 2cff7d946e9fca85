"""Token ids to text as they come: stop strings, choices, limits, and errors of one request."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pieria.engine.cause import EngineDead
from pieria.engine.drain import LEAST_SECONDS, MOST_SECONDS
from pieria.engine.messages import Add, Output
from pieria.engine.plan import Logprob
from pieria.engine.sampling_params import SamplingParams
from pieria.engine.text import Delta, QueueFull, RequestFailed, TextEngine
from pieria.models.tokenizer import Decoder

HEART = "♥".encode()
PIECES = [b"<bos>", b"<eos>", b"a", b"b", b"c", b"ab", b"ba", b" ", b"xyz", b"\n"]
PIECES += [b"\n\n", HEART[:1], HEART[1:], b"\xff"]
BOS, EOS, A, B, C, AB, BA, SPACE, XYZ, LINE, LINES, HEART_1, HEART_2, NO_UTF8 = range(14)
BEYOND = 20
"""A row of the model that the tokenizer knows nothing of."""


class Pieces:
    """A tokenizer of a few pieces of text, some of them half a character."""

    size = len(PIECES)
    special_ids = frozenset({BOS, EOS})

    def decoder(self, skip_special_tokens: bool = True) -> Decoder:
        return Decoder(self, skip_special_tokens, False)  # type: ignore[arg-type]

    def token_bytes(self, id: int) -> bytes:
        return PIECES[id]


class Script:
    """In an `EngineClient`'s place: choice i says says[i], a token a step, and ends with EOS or at
    its length. error: what ends a choice when it has nothing left to say."""

    def __init__(self, *says: Sequence[int], error: str | None = None) -> None:
        self.says = says
        self.error = error
        self.adds: list[Add] = []
        self.aborted: list[str] = []
        self.live: set[str] = set()
        self.prompt_steps = 0
        self.gone: str | None = None
        self.closed = 0

    @property
    def in_flight(self) -> int:
        return len(self.live)

    def abort(self, ids: set[str]) -> None:
        self.aborted += sorted(ids & self.live)
        self.live -= ids

    async def stream(
        self, adds: Sequence[Add], timeout_seconds: float | None = None
    ) -> AsyncIterator[Output]:
        self.adds += adds
        self.live |= {add.id for add in adds}
        try:
            for step in range(10_000):
                for add in adds:
                    if add.id in self.live:
                        await asyncio.sleep(0)
                        if self.gone is not None:
                            raise EngineDead(self.gone)
                        yield self.output(add, step)
                if not any(add.id in self.live for add in adds):
                    return
        finally:
            self.abort({add.id for add in adds})
            self.closed += 1

    def output(self, add: Add, step: int) -> Output:
        if step < self.prompt_steps:
            reports = tuple(report(step * 10 + i) for i in range(2))
            return Output(
                add.id, prompt_logprobs=reports * (add.params.prompt_logprobs is not None)
            )
        step -= self.prompt_steps
        says = self.says[add.choice % len(self.says)]
        if step == len(says) and self.error is not None:
            self.live.discard(add.id)
            return Output(add.id, finish_reason="error", error=self.error)
        token = says[step % len(says)]
        finish, stop_token = None, None
        if token == EOS and not add.params.ignore_eos:
            finish = "stop"
        elif token in (add.params.stop_token_ids or ()):
            finish, stop_token = "stop", token
        elif step + 1 == add.max_tokens:
            finish = "length"
        if finish is not None:
            self.live.discard(add.id)
        wanted = add.params.logprobs is not None
        return Output(
            add.id,
            (token,),
            (report(token),) if wanted else (),
            cached_tokens=16 if step == 0 else 0,
            finish_reason=finish,
            stop_reason=stop_token,
        )


def report(token: int) -> Logprob:
    return Logprob(token, -token / 8, 1 + token)


class Hand:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds


def engine(
    script: Script,
    limit: int | None = None,
    max_model_len: int = 1000,
    vocabulary: int = 99,
    clock: Hand | None = None,
) -> TextEngine:
    pieces: Any = Pieces()
    made: Any = script
    time: Any = clock
    return TextEngine(made, pieces, max_model_len, vocabulary, limit, clock=time)


async def deltas_of(script: Script, prompt: Sequence[int] = (BOS, A), **params: Any) -> list[Delta]:
    made = engine(script)
    return [delta async for delta in made.stream(prompt, SamplingParams(**params))]


async def say(*tokens: int, **params: Any) -> tuple[str, str | None, int | str | None, int]:
    """(text, finish reason, stop reason, tokens) of a choice that says these tokens, then ends."""
    script = Script([*tokens, EOS])
    deltas = await deltas_of(script, **{"max_tokens": 500, **params})
    assert script.live == set() and script.closed == 1
    assert all(delta.finish_reason is None for delta in deltas[:-1])
    text = "".join(delta.text for delta in deltas)
    last = deltas[-1]
    return text, last.finish_reason, last.stop_reason, sum(len(d.tokens) for d in deltas)


async def test_text_without_stops_comes_at_once() -> None:
    deltas = await deltas_of(Script([A, AB, SPACE, HEART_1, HEART_2, XYZ, EOS]))
    assert [d.text for d in deltas] == ["a", "ab", " ", "", "♥", "xyz", ""]
    assert [d.finish_reason for d in deltas] == [None] * 6 + ["stop"]
    assert [d.tokens for d in deltas] == [
        (A,),
        (AB,),
        (SPACE,),
        (HEART_1,),
        (HEART_2,),
        (XYZ,),
        (EOS,),
    ]
    assert [d.cached_tokens for d in deltas] == [16] + [0] * 6


@pytest.mark.parametrize(
    ("tokens", "stop", "text", "reason", "used"),
    [
        ((A, B, C), "b", "a", "b", 2),
        ((A, B, C), "bc", "a", "bc", 3),
        ((A, B, C), ["zz", "bc", "c"], "a", "bc", 3),
        ((A, B, C), ["c", "ab"], "", "ab", 2),
        ((AB, C), ["b", "ab"], "", "ab", 1),  # the leftmost of those in the text
        ((AB, C), ["ab", "a"], "", "a", 1),  # of those at one place, the shortest
        ((A, A, A, B), "aab", "a", "aab", 4),  # a beginning that was held turns out not to be it
        ((A, B, A, B, C), "abc", "ab", "abc", 5),
        ((XYZ,), "y", "x", "y", 1),
        ((A, LINE, LINE, B), "\n\n", "a", "\n\n", 3),
        ((A, LINES, B), "\n", "a", "\n", 2),
        ((A, HEART_1, HEART_2, B), "♥", "a", "♥", 3),
        ((A, NO_UTF8, B), "\ufffd", "a", "\ufffd", 2),
        ((A, HEART_1), "\ufffd", "a", "\ufffd", 3),  # only the end makes half a character text
        ((A, B), "c", "ab", None, 3),
        ((A, B), "bc", "ab", None, 3),  # what was held goes out at the end
        ((A, B), "b<eos>", "ab", None, 3),
    ],
)
async def test_stop_strings(
    tokens: tuple[int, ...], stop: Any, text: str, reason: str | None, used: int
) -> None:
    assert await say(*tokens, stop=stop) == (text, "stop", reason, used)
    included = await say(*tokens, stop=stop, include_stop_str_in_output=True)
    assert included == (text + (reason or ""), "stop", reason, used)


async def test_a_stop_string_that_ends_with_the_last_token() -> None:
    assert await say(A, B, stop="b", max_tokens=2) == ("a", "stop", "b", 2)
    assert await say(A, B, stop="bc", max_tokens=2) == ("ab", "length", None, 2)


async def test_nothing_that_may_become_a_stop_string_is_given_out() -> None:
    deltas = await deltas_of(Script([C, A, B, A, B, C, EOS]), stop="abc")
    assert [d.text for d in deltas] == ["c", "", "", "ab", "", ""]
    assert deltas[-1].stop_reason == "abc"


async def test_no_stop_string_before_min_tokens() -> None:
    assert await say(A, B, A, B, stop="b", min_tokens=1) == ("a", "stop", "b", 2)
    assert await say(A, B, A, B, stop="b", min_tokens=2) == ("a", "stop", "b", 2)
    assert await say(A, B, A, B, stop="b", min_tokens=3) == ("aba", "stop", "b", 4)
    # It may begin before that many tokens, if it ends after.
    assert await say(A, LINE, LINE, B, stop="\n\n", min_tokens=3) == ("a", "stop", "\n\n", 3)
    # "b" is over when "c" comes, though "abc" was still open.
    assert await say(A, B, C, C, stop=["abx", "b"], min_tokens=3) == ("abcc", "stop", None, 5)


async def test_a_choice_that_met_its_stop_string_is_aborted_and_never_heard_of_again() -> None:
    script = Script([A, B, C] * 50, [C, C, C, C, EOS])
    deltas = []
    async for delta in engine(script).stream([BOS], SamplingParams(n=2, stop="b", max_tokens=100)):
        deltas.append(delta)
        assert script.in_flight == 2 - sum(d.finish_reason is not None for d in deltas)
    assert len(script.aborted) == 1 and script.aborted[0].endswith("-0")
    texts = ["".join(d.text for d in deltas if d.choice == i) for i in (0, 1)]
    assert texts == ["a", "cccc"]
    first = [d for d in deltas if d.choice == 0]
    assert [d.finish_reason for d in first] == [None, "stop"]


async def test_a_stop_token_has_no_text() -> None:
    assert await say(A, XYZ, B, stop_token_ids=[XYZ]) == ("a", "stop", XYZ, 2)
    assert await say(A, skip_special_tokens=False) == ("a", "stop", None, 2)
    # Asked for, a stop token's text is given, unless it is special and those are skipped.
    shown = {"include_stop_str_in_output": True}
    assert await say(A, XYZ, B, stop_token_ids=[XYZ], **shown) == ("axyz", "stop", XYZ, 2)
    assert await say(A, skip_special_tokens=False, **shown) == ("a<eos>", "stop", None, 2)
    assert await say(A, **shown) == ("a", "stop", None, 2)


async def test_special_tokens_within_the_text() -> None:
    assert await say(A, BOS, B) == ("ab", "stop", None, 4)
    assert await say(A, BOS, B, skip_special_tokens=False) == ("a<bos>b", "stop", None, 4)
    assert await say(A, EOS, B, ignore_eos=True, max_tokens=3) == ("ab", "length", None, 3)


async def test_ids_beyond_the_tokenizer_have_no_text() -> None:
    assert await say(A, BEYOND, B) == ("ab", "stop", None, 4)
    assert await say(A, BEYOND, B, stop_token_ids=[BEYOND]) == ("a", "stop", BEYOND, 2)


async def test_half_a_character_at_the_end() -> None:
    assert await say(A, HEART_1) == ("a\ufffd", "stop", None, 3)
    assert await say(A, HEART_1, max_tokens=2) == ("a\ufffd", "length", None, 2)


def naive(
    tokens: Sequence[int], stops: Sequence[str], include: bool, min_tokens: int, last: str
) -> tuple[str, str]:
    """(text, why it ended) on the whole text again after each token; the last token may be a stop
    token, whose text is not told."""
    before = ""
    for count in range(1, len(tokens) + 1):
        ended = count == len(tokens)
        told = [t for t in tokens[:count] if t not in (BOS, EOS)]
        data = b"".join(PIECES[t] for t in told)
        # Half a character is no text until the rest comes, or the end.
        data = data if ended else data.removesuffix(HEART[:1])
        text = data.decode("utf-8", "replace")
        found = [
            (at, len(stop), stop)
            for stop in stops
            for at in range(len(text))
            if text.startswith(stop, at) and at + len(stop) > len(before)
        ]
        if found and count >= min_tokens:
            at, length, stop = min(found)
            return text[: at + length if include else at], stop
        before = text
    return before, last


TOKENS = st.lists(st.sampled_from(range(EOS + 1, len(PIECES))), max_size=12)
STOPS = st.lists(st.text("abc \n♥xyz\ufffd", min_size=1, max_size=4), max_size=3)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(TOKENS, STOPS, st.booleans(), st.integers(0, 5), st.booleans())
@example([HEART_1, A, NO_UTF8, HEART_1], ["\ufffda"], False, 0, True)
@example([A, B, A], ["abx", "b"], False, 3, True)
def test_streamed_text_is_that_of_the_whole(
    tokens: list[int], stops: list[str], include: bool, min_tokens: int, eos: bool
) -> None:
    tokens = [*tokens, EOS if eos else A]
    if eos and len(tokens) <= min_tokens:
        min_tokens = 0  # the engine bans end-of-text before that
    params = SamplingParams(
        stop=stops,
        include_stop_str_in_output=include,
        min_tokens=min_tokens,
        max_tokens=max(len(tokens), min_tokens),
    )
    if len(tokens) < min_tokens:
        return

    async def run() -> list[Delta]:
        script = Script(tokens)
        return [d async for d in engine(script).stream([BOS], params)]

    deltas = asyncio.run(run())
    text = "".join(d.text for d in deltas)
    last = deltas[-1]
    why = last.stop_reason if isinstance(last.stop_reason, str) else last.finish_reason
    assert (text, why) == naive(tokens, stops, include, min_tokens, "stop" if eos else "length")


async def test_a_seed_is_fixed_at_admission() -> None:
    script = Script([A, EOS])
    for _ in range(2):
        await deltas_of(script, n=3)
    first, second = ({a.seed for a in script.adds[i : i + 3]} for i in (0, 3))
    assert len(first) == len(second) == 1 and first != second
    assert all(0 <= seed < 2**63 for seed in first | second)
    await deltas_of(script, seed=0)
    await deltas_of(script, seed=-5)
    assert [a.seed for a in script.adds[6:]] == [0, -5]


async def test_choices_follow_a_leader_that_alone_reports_on_the_prompt() -> None:
    script = Script([A, EOS])
    script.prompt_steps = 2
    made = engine(script)
    params = SamplingParams(n=3, prompt_logprobs=1, logprobs=0, temperature=0.5)
    deltas = [d async for d in made.stream([BOS, A, B], params, priority=4, salt="tenant")]
    adds = script.adds
    assert [a.choice for a in adds] == [0, 1, 2]
    assert [a.leader for a in adds] == [None, adds[0].id, adds[0].id]
    assert len({a.id for a in adds}) == 3
    assert [a.params.prompt_logprobs for a in adds] == [1, None, None]
    assert all((a.tokens, a.priority, a.salt) == ((BOS, A, B), 4, "tenant") for a in adds)
    assert all(a.params.temperature == 0.5 and a.params.logprobs == 0 for a in adds)
    # With the first token: nothing for the first prompt token, then all in order.
    reported = [d for d in deltas if d.prompt_logprobs is not None]
    assert [(d.choice, d.tokens) for d in reported] == [(0, (A,))]
    assert reported[0].prompt_logprobs == (None, report(0), report(1), report(10), report(11))
    assert [d.logprobs for d in deltas if d.choice == 2 and d.tokens] == [
        (report(A),),
        (report(EOS),),
    ]


async def test_max_tokens_is_what_is_left_of_the_models_length() -> None:
    script = Script([A])
    made = engine(script, max_model_len=10)
    params = SamplingParams(max_tokens=None)
    deltas = [d async for d in made.stream([BOS] * 4, params)]
    assert script.adds[0].max_tokens == 6
    assert deltas[-1].finish_reason == "length"
    assert sum(len(d.tokens) for d in deltas) == 6
    [delta] = [d async for d in made.stream([BOS] * 9, params)]
    assert delta.finish_reason == "length"


@pytest.mark.parametrize(
    ("prompt", "params", "message"),
    [
        ([], {}, "the prompt has no tokens; at least 1 is needed"),
        (
            [BOS] * 4,
            {"max_tokens": 7},
            "this model's maximum context length is 10 tokens; the prompt has 4 and max_tokens is"
            " 7: 11 in all",
        ),
        (
            [BOS] * 10,
            {"max_tokens": None},
            "this model's maximum context length is 10 tokens; the prompt has 10 and max_tokens is"
            " 1: 11 in all",
        ),
        ([A, 14], {}, "the prompt has token id 14; ids are integers below 14"),
        ([-1], {}, "the prompt has token id -1; ids are integers below 14"),
        ([A, True], {}, "the prompt has token id True; ids are integers below 14"),
        ([1.0], {}, "the prompt has token id 1.0; ids are integers below 14"),
        ([A], {"logit_bias": {99: 1.0}}, "logit_bias has token id 99; ids are integers below 14"),
    ],
)
async def test_what_cannot_be_served_never_reaches_the_engine(
    prompt: list[Any], params: dict[str, Any], message: str
) -> None:
    script = Script([A, EOS])
    made = engine(script, max_model_len=10)
    with pytest.raises(ValueError) as raised:
        async for _ in made.stream(prompt, SamplingParams(**{"max_tokens": 2, **params})):
            raise AssertionError
    assert str(raised.value) == message
    assert script.adds == []


async def test_ids_of_the_tokenizer_that_the_model_does_not_know_are_refused() -> None:
    script = Script([A, EOS])
    made = engine(script, vocabulary=A)
    with pytest.raises(ValueError, match=f"the prompt has token id {A}; ids are integers below"):
        await anext(made.stream([BOS, A], SamplingParams()))
    assert script.adds == []


async def test_a_full_queue() -> None:
    script = Script([A] * 20)
    made = engine(script, limit=3)
    async with aclosing(made.stream([BOS], SamplingParams(n=2))) as running:
        await anext(running)
        with pytest.raises(QueueFull) as full:
            await anext(made.stream([BOS], SamplingParams(n=2)))
        assert str(full.value) == "2 requests are running or waiting; the limit is 3"
        assert full.value.retry_after_seconds > 0
        assert script.in_flight == 2
        async with aclosing(made.stream([BOS], SamplingParams())) as another:
            await anext(another)
            assert script.in_flight == 3
    assert script.in_flight == 0
    assert [d async for d in made.stream([BOS], SamplingParams(n=3))] != []


async def test_who_finds_the_queue_full_is_told_when_there_may_be_room() -> None:
    clock = Hand()
    made = engine(Script([A] * 20), limit=4, clock=clock)

    async def wait(n: int) -> float:
        with pytest.raises(QueueFull) as full:
            await anext(made.stream([BOS], SamplingParams(n=n)))
        return full.value.retry_after_seconds

    async with aclosing(made.stream([BOS], SamplingParams(n=2, max_tokens=20))) as running:
        await anext(running)
        assert await wait(3) == LEAST_SECONDS  # nothing has left so far
        for _ in range(2):  # a choice in 3 seconds
            clock.seconds += 3
            assert [d async for d in made.stream([BOS], SamplingParams(max_tokens=2))]
        assert await wait(3) == 3
        assert await wait(4) == 6
        clock.seconds += 6  # and then none
        assert await wait(3) == 6
        clock.seconds += 1000
        assert await wait(3) == MOST_SECONDS


async def test_an_error_in_the_text_of_tokens_ends_the_request_with_its_cause(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: object, tokens: object) -> str:
        raise KeyError("a secret of the machine")

    monkeypatch.setattr(Decoder, "push", broken)
    with pytest.raises(RequestFailed, match="making text of its tokens failed with KeyError"):
        async for _ in engine(Script([A, B])).stream([BOS], SamplingParams()):
            pass
    assert "secret" not in caplog.text


async def test_an_error_ends_the_request_and_all_its_choices() -> None:
    script = Script([A, B], [A] * 50, error="ValueError: not this")
    texts: list[str] = []
    with pytest.raises(RequestFailed, match="ValueError: not this"):
        async for delta in engine(script).stream([BOS], SamplingParams(n=2, max_tokens=50)):
            texts.append(delta.text)
    assert texts == ["a", "a", "b", "a"]
    assert [id[-2:] for id in script.aborted] == ["-1"]
    assert script.closed == 1


async def test_the_engines_end_reaches_the_reader() -> None:
    script = Script([A] * 50)
    with pytest.raises(EngineDead, match="the root cause"):
        async for delta in engine(script).stream([BOS], SamplingParams()):
            script.gone = "the root cause"
            assert delta.text == "a"


@pytest.mark.parametrize("leave", ["close", "cancel"])
async def test_leaving_early_aborts_all_choices(leave: str) -> None:
    script = Script([A] * 50)
    stream = engine(script).stream([BOS], SamplingParams(n=3, max_tokens=50))

    async def read(until: Callable[[int], bool]) -> None:
        count = 0
        async for _ in stream:
            count += 1
            if until(count):
                return

    if leave == "close":
        await read(lambda count: count == 5)
        await stream.aclose()
    else:
        reading = asyncio.create_task(read(lambda count: False))
        while not script.live:
            await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
    assert len(script.aborted) == 3 and script.live == set() and script.closed == 1
