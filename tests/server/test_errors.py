"""Errors: OpenAI's shape, bounded, and the field they are about."""

import json

import pytest

from pieria.engine.sampling_params import SamplingParams
from pieria.server.errors import (
    ApiError,
    failed,
    from_value_error,
    invalid,
    shown,
    too_many,
    unavailable,
)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (invalid("n", "m"), "invalid_request_error"),
        (ApiError(401, "m"), "authentication_error"),
        (ApiError(404, "m"), "invalid_request_error"),
        (too_many(0.2), "rate_limit_error"),
        (failed("id", "m"), "server_error"),
        (unavailable("m"), "server_error"),
    ],
)
def test_the_shape_is_openais(error: ApiError, kind: str) -> None:
    body = json.loads(error.body)
    assert list(body) == ["error"]
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["type"] == kind


def test_who_should_come_back_is_told_when() -> None:
    assert too_many(0.2).headers == {"retry-after": "1"}
    assert too_many(2.1).headers == {"retry-after": "3"}
    assert int(unavailable("m").headers["retry-after"]) > 0


def test_long_messages_keep_both_ends() -> None:
    message = json.loads(invalid("n", "n=" + "9" * 5000 + " must be small").body)["error"][
        "message"
    ]
    assert message.startswith("n=9")
    assert message.endswith("9 must be small")
    assert len(message) < 1000


@pytest.mark.parametrize(
    ("fields", "param", "start"),
    [
        ({"temperature": -1}, "temperature", "temperature=-1 must be"),
        ({"max_tokens": 0}, "max_completion_tokens", "max_completion_tokens=0 must be"),
        ({"logit_bias": {7: 1000}}, "logit_bias", "logit_bias[7]=1000 must be"),
        ({"stop": ["a"] * 65}, "stop", "stop has 65 "),
        ({"min_tokens": 5, "max_tokens": 3}, "min_tokens", "min_tokens=5 must not exceed"),
    ],
)
def test_the_field_is_named_as_the_request_has_it(
    fields: dict[str, object], param: str, start: str
) -> None:
    with pytest.raises(ValueError) as raised:
        SamplingParams(**fields)
    error = from_value_error(raised.value, {"max_tokens": "max_completion_tokens"})
    assert (error.status, error.param) == (400, param)
    assert error.message.startswith(start)


def test_what_is_no_fields_fault_names_none() -> None:
    error = from_value_error(ValueError("the prompt has 9 tokens; at most 8 fit"), {})
    assert (error.param, error.message) == (None, "the prompt has 9 tokens; at most 8 fit")


@pytest.mark.parametrize("value", ["x" * 10**6, [0] * 10**6, {"k" * 10**6: [[[[1]]]]}, 10**4000])
def test_large_values_are_shown_short(value: object) -> None:
    assert len(shown(value)) < 200
