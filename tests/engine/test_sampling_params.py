"""Every field's bounds, and that a refusal names the field, the value and what is allowed."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pieria.engine.sampling_params import SamplingParams, sampling_defaults
from tests.engine.profiles import STEADY

TINY = math.nextafter(0.0, 1.0)
"""The lowest number where the bound itself is excluded."""

INTEGERS = {
    "n": (1, 128),
    "top_k": (-1, 2**31 - 1),
    "seed": (-(2**63), 2**63 - 1),
    "max_tokens": (1, 2**31 - 1),
    "min_tokens": (0, 2**31 - 1),
    "logprobs": (0, 100),
    "prompt_logprobs": (0, 100),
}
NUMBERS = {
    "temperature": (0.0, 100.0),
    "top_p": (TINY, 1.0),
    "min_p": (0.0, 1.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "repetition_penalty": (TINY, 100.0),
}
SWITCHES = ["include_stop_str_in_output", "ignore_eos", "skip_special_tokens"]
OPTIONAL = [
    "seed",
    "max_tokens",
    "logprobs",
    "prompt_logprobs",
    "stop",
    "stop_token_ids",
    "logit_bias",
]


def made(field: str, value: Any) -> SamplingParams:
    alone = {"max_tokens": None} if field == "min_tokens" else {}
    return SamplingParams(**{**alone, field: value})


def refusal(field: str, value: Any) -> str:
    with pytest.raises(ValueError) as refused:
        made(field, value)
    return str(refused.value)


def test_every_field_is_covered_here() -> None:
    lists = {"stop", "stop_token_ids", "logit_bias"}
    assert {*INTEGERS, *NUMBERS, *SWITCHES, *lists} == set(SamplingParams.__dataclass_fields__)


@pytest.mark.parametrize("field", INTEGERS)
def test_integers_at_and_beyond_their_bounds(field: str) -> None:
    low, high = INTEGERS[field]
    for value in (low, high):
        assert getattr(made(field, value), field) == value
    for value in (low - 1, high + 1, 10**400):
        assert refusal(field, value) == f"{field}={value} must be an integer from {low} to {high}"


@pytest.mark.parametrize("field", INTEGERS)
@pytest.mark.parametrize("value", [1.0, "1", True, [1]])
def test_integers_are_integers(field: str, value: object) -> None:
    low, high = INTEGERS[field]
    assert refusal(field, value) == f"{field}={value!r} must be an integer from {low} to {high}"


@pytest.mark.parametrize("field", NUMBERS)
def test_numbers_at_and_beyond_their_bounds(field: str) -> None:
    low, high = NUMBERS[field]
    for value in (low, high, 1, 0.5):
        assert getattr(made(field, value), field) == value
    below, above = math.nextafter(low, -math.inf), math.nextafter(high, math.inf)
    bound = "above 0.0" if low == TINY else f"from {low}"
    allowed = f"must be a number {bound} to {high}"
    for wrong in (below, above, math.inf, -math.inf, math.nan, 10**400, "1", True, None, [1.0]):
        assert refusal(field, wrong) == f"{field}={wrong!r} {allowed}"


@STEADY
@given(st.sampled_from(sorted(INTEGERS)), st.integers())
def test_any_integer_is_in_or_out(field: str, value: int) -> None:
    low, high = INTEGERS[field]
    if low <= value <= high:
        assert getattr(made(field, value), field) == value
    else:
        assert f"{field}={value}" in refusal(field, value)


@STEADY
@given(st.sampled_from(sorted(NUMBERS)), st.floats())
def test_any_number_is_in_or_out(field: str, value: float) -> None:
    low, high = NUMBERS[field]
    if low <= value <= high:
        assert getattr(made(field, value), field) == value
    else:
        assert f"{field}={value}" in refusal(field, value)


@pytest.mark.parametrize("field", OPTIONAL)
def test_none_is_no_wish(field: str) -> None:
    assert getattr(made(field, None), field) is None


@pytest.mark.parametrize("field", SWITCHES)
def test_switches_are_true_or_false(field: str) -> None:
    assert getattr(made(field, True), field) is True
    for wrong in ("false", 1, None):
        assert refusal(field, wrong) == f"{field}={wrong!r} must be true or false"


def test_min_tokens_within_max_tokens() -> None:
    assert SamplingParams(min_tokens=3, max_tokens=3).min_tokens == 3
    with pytest.raises(ValueError, match="min_tokens=4 must not exceed max_tokens=3"):
        SamplingParams(min_tokens=4, max_tokens=3)


@pytest.mark.parametrize(
    ("stop", "stops"),
    [(None, ()), ("ab" * 40, ("ab" * 40,)), ([], ()), (["a", "b"], ("a", "b")), (("a",), ("a",))],
)
def test_stop_in_all_its_forms(stop: Any, stops: tuple[str, ...]) -> None:
    assert SamplingParams(stop=stop).stops == stops


def test_stops_at_their_bounds() -> None:
    SamplingParams(stop=["x" * 1024] * 64, stop_token_ids=[0, 2**31 - 1] * 32)


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("stop", 5, "stop=5 must be a list of at most 64 entries"),
        ("stop", {"a": 1}, "stop={'a': 1} must be a list of at most 64 entries"),
        ("stop", ["a", 5], "stop=5 must be a string"),
        ("stop", b"ab", "stop=97 must be a string"),
        ("stop", "", "stop has a string of 0 characters; 1 to 1024 are allowed"),
        ("stop", ["a", ""], "stop has a string of 0 characters; 1 to 1024 are allowed"),
        ("stop", "x" * 1025, "stop has a string of 1025 characters; 1 to 1024 are allowed"),
        ("stop", ["a"] * 65, "stop has 65 entries; at most 64 are allowed"),
        ("stop_token_ids", 5, "stop_token_ids=5 must be a list of at most 64 entries"),
        ("stop_token_ids", [1] * 65, "stop_token_ids has 65 entries; at most 64 are allowed"),
        ("stop_token_ids", [-1], "stop_token_ids=-1 must be an integer from 0 to 2147483647"),
        ("stop_token_ids", "1", "stop_token_ids='1' must be an integer from 0 to 2147483647"),
        ("logit_bias", [3], "logit_bias=[3] must be a mapping of at most 1024 entries"),
        (
            "logit_bias",
            dict.fromkeys(range(1025), 0.0),
            "logit_bias has 1025 entries; at most 1024 are allowed",
        ),
        ("logit_bias", {"3": 1.0}, "logit_bias token='3' must be an integer from 0 to 2147483647"),
        ("logit_bias", {-1: 1.0}, "logit_bias token=-1 must be an integer from 0 to 2147483647"),
        ("logit_bias", {3: 100.5}, "logit_bias[3]=100.5 must be a number from -100.0 to 100.0"),
        ("logit_bias", {3: math.nan}, "logit_bias[3]=nan must be a number from -100.0 to 100.0"),
        ("logit_bias", {3: None}, "logit_bias[3]=None must be a number from -100.0 to 100.0"),
    ],
)
def test_lists_and_mappings(field: str, value: Any, text: str) -> None:
    assert refusal(field, value) == text


def test_biases_at_their_bounds() -> None:
    SamplingParams(logit_bias={i: (-1) ** i * 100 for i in range(1024)})
    SamplingParams(logit_bias={2**31 - 1: 0.0})


def test_params_do_not_change() -> None:
    with pytest.raises(AttributeError):
        SamplingParams().temperature = 0.0


def test_defaults_are_translated() -> None:
    given = {
        "do_sample": True,
        "temperature": 0.6,
        "top_p": 0.95,
        "top_k": None,
        "max_new_tokens": 7,
        "eos_token_id": [1, 2],
    }
    wanted = {"temperature": 0.6, "top_p": 0.95, "max_tokens": 7}
    assert sampling_defaults(given) == wanted
    # A later one wins where it says something.
    assert sampling_defaults({"top_p": 0.5, "min_p": 0.1}, given) == {**wanted, "min_p": 0.1}
    assert sampling_defaults() == {}
