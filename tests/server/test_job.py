"""Jobs: what sampling a request means, and what no request may ask of this model."""

from typing import Any

import pytest

from pieria.engine.sampling_params import SamplingParams
from pieria.server.errors import ApiError
from pieria.server.job import (
    Job,
    Prompt,
    check_logprobs,
    check_model,
    check_token_ids,
    encode,
    sampling,
)
from pieria.server.schema import GenerationRequest
from tests.server.fakes import Toy, ToyTokenizer


def request(**fields: Any) -> GenerationRequest:
    return GenerationRequest(model="toy", **fields)


def refused(call: Any, *arguments: Any) -> ApiError:
    with pytest.raises(ApiError) as raised:
        call(*arguments)
    return raised.value


def test_the_request_comes_before_defaults_and_specials_before_both() -> None:
    defaults = {"temperature": 0.6, "top_k": 5, "max_tokens": 9}
    params = sampling(request(temperature=0.1, seed=3), {"max_tokens": 2}, defaults, {})
    assert params == SamplingParams(temperature=0.1, seed=3, top_k=5, max_tokens=2)


def test_none_leaves_the_default() -> None:
    assert sampling(request(), {"max_tokens": None}, {}, {}) == SamplingParams()
    assert sampling(request(), {"max_tokens": None}, {"max_tokens": None}, {}).max_tokens is None


def test_refusals_bear_the_requests_names() -> None:
    error = refused(sampling, request(), {"logprobs": -1}, {}, {"logprobs": "top_logprobs"})
    assert (error.status, error.param) == (400, "top_logprobs")


def test_choices_are_numbered_through() -> None:
    job = Job((Prompt("a", [1]), Prompt("b", [2])), SamplingParams(n=3))
    assert [job.index(p, c) for p in range(2) for c in range(3)] == [0, 1, 2, 3, 4, 5]


def test_models() -> None:
    toy = Toy()
    check_model("toy", toy.state)
    check_model(None, toy.state)
    error = refused(check_model, "x" * 200, toy.state)
    assert (error.status, error.param, error.code) == (404, "model", "model_not_found")
    assert len(error.message) < 200


def test_logprobs() -> None:
    config = Toy(max_logprobs=3).config
    check_logprobs("logprobs", 3, config)
    check_logprobs("logprobs", None, config)
    assert refused(check_logprobs, "logprobs", 4, config).message == (
        "logprobs=4 must be at most 3"
    )


def test_token_ids() -> None:
    check_token_ids("tokens", [], ToyTokenizer())
    check_token_ids("tokens", [0, 257], ToyTokenizer())
    assert refused(check_token_ids, "tokens", [0, 258, 3], ToyTokenizer()).param == "tokens"


def test_texts() -> None:
    served = Toy(max_model_len=2).served
    assert encode("prompt", "é", True, served) == [256, 0xC3, 0xA9]
    assert encode("prompt", "x" * 10, False, served) == [ord("x")] * 10
    assert refused(encode, "prompt", "é" * 5 + "x", False, served).param == "prompt"
