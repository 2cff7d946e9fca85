"""A request's arithmetic: what is left to compute, how the next token is drawn, when it ends."""

from array import array
from typing import Any

import pytest

from pieria.engine.messages import Add
from pieria.engine.plan import Draw
from pieria.engine.request import Request
from pieria.engine.sampling_params import SamplingParams

EOS = frozenset({0, 1})


def request(output: tuple[int, ...] = (), max_tokens: int = 4, **params: Any) -> Request:
    add = Add(
        "a", (5, 6, 7), SamplingParams(**params), 11, max_tokens, choice=2, salt="s", adapter="t"
    )
    made = Request(add, arrival=0)
    made.tokens += output
    return made


def test_a_new_request_has_everything_to_compute() -> None:
    new = request()
    assert (new.id, new.key, new.pending, new.output_length) == ("a", ("s", "t"), 3, 0)
    assert (new.computed, new.tables, new.states, new.prompt_length) == (0, [], [], 3)


def test_pending_is_what_is_known_and_not_computed() -> None:
    running = request(output=(8, 9))
    running.computed = 4
    assert (running.pending, running.output_length) == (1, 2)


def test_its_tokens_are_its_own() -> None:
    one = request(output=(8,))
    assert one.add.tokens == (5, 6, 7)


def test_a_plain_draw() -> None:
    assert request(output=(8,)).draw(EOS) == Draw(
        seed=11, choice=2, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0
    )


def test_every_wish_reaches_the_draw() -> None:
    wishes = {
        "temperature": 0.5,
        "top_k": 40,
        "top_p": 0.9,
        "min_p": 0.1,
        "presence_penalty": 0.25,
        "frequency_penalty": -0.5,
        "repetition_penalty": 1.5,
        "logprobs": 3,
    }
    draw = request(output=(8, 9), logit_bias={3: 1.5, 2: -4.0}, **wishes).draw(EOS)
    assert draw == Draw(
        seed=11,
        choice=2,
        seen=array("i", (5, 6, 7, 8, 9)).tobytes(),
        times=array("i", (0, 0, 0, 1, 1)).tobytes(),
        bias=((3, 1.5), (2, -4.0)),
        **wishes,
    )


def test_no_top_k_has_two_spellings() -> None:
    assert request(top_k=-1).draw(EOS) == request(top_k=0).draw(EOS)


@pytest.mark.parametrize(
    ("penalty", "seen", "times"),
    [
        ({"repetition_penalty": 0.9}, (5, 6, 7, 8), (1, 0, 0, 2)),
        ({"presence_penalty": 0.1}, (8, 5), (2, 1)),
        ({"frequency_penalty": 0.1}, (8, 5), (2, 1)),
        ({}, (), ()),
    ],
)
def test_what_penalties_look_at(
    penalty: dict[str, float], seen: tuple[int, ...], times: tuple[int, ...]
) -> None:
    draw = request(output=(8, 5, 8), **penalty).draw(EOS)
    assert array("i", draw.seen).tolist() == list(seen)
    assert array("i", draw.times).tolist() == list(times)


def test_penalties_see_what_came_since_the_last_draw() -> None:
    one = request(output=(8,), repetition_penalty=1.5)
    for token in (8, 3, 5, 5):
        one.draw(EOS)
        one.tokens.append(token)
    draw = one.draw(EOS)
    assert array("i", draw.seen).tolist() == [5, 6, 7, 8, 3]
    assert array("i", draw.times).tolist() == [2, 0, 0, 2, 1]


@pytest.mark.parametrize(
    ("output", "banned"), [((), (0, 1, 9)), ((8,), (0, 1, 9)), ((8, 8), ()), ((8, 8, 8), ())]
)
def test_before_min_tokens_no_end_is_drawn(
    output: tuple[int, ...], banned: tuple[int, ...]
) -> None:
    assert request(output, min_tokens=2, stop_token_ids=[9, 1]).draw(EOS).banned == banned


STOPS: dict[str, Any] = {"stop_token_ids": [9]}


@pytest.mark.parametrize(
    ("output", "params", "reason"),
    [
        ((8,), {}, (None, None)),
        ((0,), {}, ("stop", None)),
        ((8, 1), {}, ("stop", None)),
        ((0,), {"ignore_eos": True}, (None, None)),
        ((9,), {}, (None, None)),
        ((9,), STOPS, ("stop", 9)),
        ((9,), {**STOPS, "ignore_eos": True}, ("stop", 9)),
        ((0,), {"stop_token_ids": [0]}, ("stop", 0)),
        ((0,), {"stop_token_ids": [0], "ignore_eos": True}, ("stop", 0)),
        ((8, 8, 8), {}, (None, None)),
        ((8, 8, 8, 8), {}, ("length", None)),
        ((8, 8, 8, 0), {}, ("stop", None)),
        ((0,), {"min_tokens": 2}, (None, None)),
        ((8, 0), {"min_tokens": 2}, ("stop", None)),
        ((9,), {**STOPS, "min_tokens": 2}, (None, None)),
        ((8, 8, 8, 0), {"min_tokens": 5}, ("length", None)),
    ],
)
def test_why_it_ends(
    output: tuple[int, ...], params: dict[str, Any], reason: tuple[str | None, int | None]
) -> None:
    assert request(output, **params).finish_reason(EOS) == reason


@pytest.mark.parametrize(
    ("asked", "sent", "wants"), [(None, 0, False), (0, 0, True), (2, 1, True), (2, 2, False)]
)
def test_prompt_logprobs_are_wanted_until_all_but_the_first_token_have_one(
    asked: int | None, sent: int, wants: bool
) -> None:
    one = request(prompt_logprobs=asked)
    one.prompt_logprobs_sent = sent
    assert one.wants_prompt_logprobs == wants
