"""Request bodies: nothing is coerced, nothing is ignored, nothing is unbounded."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pieria.server import schema
from pieria.server.errors import ApiError
from pieria.server.schema import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
    read,
)

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION = {"model": "m", "prompt": "hi"}


def chat(**fields: Any) -> ChatRequest:
    return read(json.dumps({**CHAT, **fields}).encode(), ChatRequest)


def completion(**fields: Any) -> CompletionRequest:
    return read(json.dumps({**COMPLETION, **fields}).encode(), CompletionRequest)


def refused(call: Any, **fields: Any) -> ApiError:
    with pytest.raises(ApiError) as raised:
        call(**fields)
    assert raised.value.status == 400
    return raised.value


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "EOF while parsing a value at line 1 column 0"),
        (b'{"model": "m",\n "n": 1,}', "trailing comma at line 2 column 9"),
        (b'{"model": "\x00"}', "control character"),
        (b'{"model": "\xff"}', "invalid unicode code point at line 1 column 1"),
        (b'{"model": "\xed\xa0\x80"}', "invalid unicode code point"),
        (b'{"model": "\\ud800"}', "hex escape at line 1"),
        (b'{"model": "\\ud800\\u0041"}', "lone leading surrogate"),
        (b'{"temperature": NaN}', "expected value at line 1 column 17"),
        (b'{"temperature": Infinity}', "expected value"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "number out of range"),
        (b"[" * 100_000, "recursion limit exceeded"),
        (b'{"metadata":' * 300 + b"1" + b"}" * 300, "recursion limit exceeded"),
        (b"{} {}", "trailing characters"),
        (b"\xef\xbb\xbf{}", "expected value at line 1 column 1"),
    ],
)
def test_json_breaks_off_somewhere(body: bytes, message: str) -> None:
    with pytest.raises(ApiError, match=f"the body is not valid JSON: .*{message}") as raised:
        read(body, ChatRequest)
    assert (raised.value.status, raised.value.param) == (400, None)


@pytest.mark.parametrize("body", [b"null", b"[]", b'"text"', b"1"])
def test_a_body_is_an_object(body: bytes) -> None:
    with pytest.raises(ApiError, match="the body must be a JSON object"):
        read(body, ChatRequest)


def test_null_means_not_given() -> None:
    nulls = {
        name: None
        for name in ChatRequest.model_fields
        if name not in ("model", "messages", "priority")
    }
    assert chat(**nulls) == chat()


def test_required_fields() -> None:
    for call, name in ((chat, "model"), (chat, "messages"), (completion, "prompt")):
        body = {k: v for k, v in (CHAT if call is chat else COMPLETION).items() if k != name}
        with pytest.raises(ApiError, match=f"{name} is required") as raised:
            read(json.dumps(body).encode(), ChatRequest if call is chat else CompletionRequest)
        assert raised.value.param == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", True),
        ("n", 1.0),
        ("n", "1"),
        ("max_tokens", 2.5),
        ("temperature", "0.5"),
        ("temperature", False),
        ("temperature", [1]),
        ("stream", 1),
        ("stream", "true"),
        ("seed", 1e300),
        ("priority", 2**31),
        ("model", 7),
        ("model", "m" * 257),
        ("cache_salt", "s" * 257),
        ("stop", 7),
        ("stop", ["a", 7]),
        ("stop_token_ids", [1, -1]),
        ("stop_token_ids", [1.5]),
        ("stop_token_ids", 5),
        ("logit_bias", []),
        ("logit_bias", {"x": 1}),
        ("logit_bias", {"-1": 1}),
        ("logit_bias", {"\u0661": 1}),
        ("stream_options", True),
        ("logprobs", 2),
        ("chat_template_kwargs", []),
        ("chat_template_kwargs", {"messages": []}),
        ("chat_template_kwargs", {"tools": []}),
        ("chat_template_kwargs", {"__class__": 1}),
        ("chat_template_kwargs", {"a b": 1}),
        ("chat_template_kwargs", {f"v{i}": 1 for i in range(65)}),
    ],
)
def test_wrong_types_and_sizes_name_the_field(name: str, value: object) -> None:
    error = refused(chat, **{name: value})
    assert error.param == name
    assert name in error.message


def test_infinite_numbers() -> None:
    body = json.dumps(CHAT)[:-1].encode() + b', "temperature": 1e999}'
    with pytest.raises(ApiError, match="temperature=inf should be a finite number"):
        read(body, ChatRequest)


def test_integers_serve_as_numbers() -> None:
    assert chat(temperature=0).temperature == 0


def test_unknown_fields_are_named_with_the_nearest() -> None:
    error = refused(chat, max_token=3)
    assert error.message == "unknown field 'max_token'; did you mean max_tokens?"
    assert error.param == "max_token"
    error = refused(chat, stream_options={"include_usages": True})
    assert error.message.startswith("unknown field 'stream_options.include_usages'; did you mean")
    assert refused(chat, echo=True).param == "echo"
    assert len(json.dumps(refused(chat, **{"x" * 10**6: 1}).message)) < 300


def test_a_million_wrong_things_make_one_error() -> None:
    assert "unknown field 'f0'" in refused(chat, **{f"f{i}": 1 for i in range(100_000)}).message
    many = {f"f{i}": 1 for i in range(100_000)}
    assert "messages[0].f0" in refused(chat, messages=[{"role": "user", **many}]).message
    assert "stop_token_ids[0]='a'" in refused(chat, stop_token_ids=["a"] * 100_000).message


@pytest.mark.parametrize(
    ("name", "neutral", "asking"),
    [
        ("tools", [], [{"type": "function"}]),
        ("tool_choice", "none", "auto"),
        ("functions", [], [{}]),
        ("function_call", "none", {"name": "f"}),
        ("response_format", {"type": "text"}, {"type": "json_object"}),
        ("modalities", ["text"], ["text", "audio"]),
        ("store", False, True),
        ("store", False, 0),
        ("service_tier", "auto", "flex"),
        ("service_tier", "default", "priority"),
        ("suffix", "", "end"),
        ("audio", None, {"voice": "alloy"}),
        ("prediction", None, {"type": "content"}),
        ("web_search_options", None, {}),
        ("reasoning_effort", None, "low"),
        ("verbosity", None, "high"),
        ("moderation", None, {"model": "m"}),
    ],
)
def test_known_but_not_served(name: str, neutral: object, asking: object) -> None:
    assert chat(**{name: neutral}) == chat()
    assert chat(**{name: None}) == chat()
    error = refused(chat, **{name: asking})
    assert error.param == name
    assert error.message.startswith(f"{name} is not supported")


def test_what_changes_nothing_is_taken() -> None:
    inert = {
        "user": "u",
        "metadata": {"k": "v"},
        "safety_identifier": "s",
        "prompt_cache_key": "p",
        "parallel_tool_calls": True,
    }
    assert chat(**inert) == chat()
    assert completion(user="u") == completion()


def test_content_parts_are_joined_and_developers_are_the_system() -> None:
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c", "refusal": None, "tool_calls": []},
        {"role": "tool", "content": "d", "tool_call_id": "call_1"},
        {"role": "user", "content": "e", "name": "eve"},
    ]
    assert chat(messages=messages).messages == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": "c"},
        {"role": "tool", "content": "d", "tool_call_id": "call_1"},
        {"role": "user", "content": "e", "name": "eve"},
    ]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "must be a list of 1 to"),
        ("hi", "must be a list of 1 to"),
        ([{"role": "user", "content": "a"}] * 4097, "must be a list of 1 to 4096"),
        (["hi"], r"messages\[0\]='hi' must be an object"),
        ([{"content": "a"}], r"messages\[0\].role=None must be one of system, developer"),
        ([{"role": "function", "content": "a"}], r"messages\[0\].role='function' must be one of"),
        ([{"role": ["user"], "content": "a"}], r"messages\[0\].role=\['user'\] must be one of"),
        ([{"role": "user"}], r"messages\[0\].content=None must be a string"),
        ([{"role": "user", "content": []}], r"messages\[0\].content=\[\] must be"),
        ([{"role": "user", "content": 5}], r"messages\[0\].content=5 must be"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}],
            r"messages\[0\].content\[0\]: image_url is not supported; only text is",
        ),
        (
            [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}],
            r"messages\[0\].content\[0\]: input_audio is not supported",
        ),
        ([{"role": "user", "content": ["a"]}], r"content\[0\]: 'a' is not supported"),
        ([{"role": "user", "content": [{"type": "text"}]}], "must have a string `text`"),
        ([{"role": "user", "content": [{"type": "text", "text": 1}]}], "must have a string"),
        ([{"role": "user", "content": "a", "x": 1}], r"unknown field 'messages\[0\].x'"),
        ([{"role": "user", "content": "a", "tool_calls": None}], "unknown field"),
        ([{"role": "user", "content": "a", "name": 5}], r"name=5 must be a string"),
        (
            [{"role": "assistant", "content": "a", "tool_calls": [{"id": "c"}]}],
            r"messages\[0\].tool_calls is not supported",
        ),
        (
            [{"role": "assistant", "content": "a", "audio": {"id": "c"}}],
            r"messages\[0\].audio is not supported",
        ),
    ],
)
def test_bad_messages(messages: object, message: str) -> None:
    with pytest.raises(ApiError, match=message) as raised:
        chat(messages=messages)
    assert raised.value.param == "messages"


@pytest.mark.parametrize(
    ("prompt", "read_as"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
        ("", [""]),
    ],
)
def test_forms_of_prompts(prompt: object, read_as: object) -> None:
    assert completion(prompt=prompt).prompt == read_as


@pytest.mark.parametrize(
    "prompt",
    [
        [],
        [[]],
        None,
        5,
        {"a": 1},
        ["a", 1],
        [1, "a"],
        [1, -1],
        [1, True],
        [1.0],
        [[1], "a"],
        [[[1]]],
        [2**31],
        ["a"] * 1025,
        [[1]] * 1025,
    ],
)
def test_bad_prompts(prompt: object) -> None:
    error = refused(completion, prompt=prompt)
    assert error.param == "prompt"
    assert error.message.startswith("prompt=")


def test_fields_that_only_one_endpoint_has() -> None:
    assert refused(completion, top_logprobs=1).param == "top_logprobs"
    assert refused(completion, max_completion_tokens=1).param == "max_completion_tokens"
    assert refused(chat, best_of=1).param == "best_of"
    assert completion(logprobs=3, echo=True, best_of=1).logprobs == 3
    assert refused(completion, logprobs=True).param == "logprobs"


def test_tokenize_and_detokenize() -> None:
    assert read(b'{"prompt": "a"}', TokenizeRequest).prompt == "a"
    assert read(b'{"tokens": [1, 2]}', DetokenizeRequest).tokens == [1, 2]
    for body in (b'{"tokens": [-1]}', b'{"tokens": "1"}', b'{"tokens": [true]}', b"{}"):
        with pytest.raises(ApiError) as raised:
            read(body, DetokenizeRequest)
        assert raised.value.param == "tokens"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
field_names = st.sampled_from(
    sorted({*ChatRequest.model_fields, *CompletionRequest.model_fields, *schema.NEUTRAL})
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(field_names, json_values, max_size=3), st.booleans())
def test_any_json_is_read_or_refused(fields: dict[str, Any], whole: bool) -> None:
    base, kind = (CHAT, ChatRequest) if whole else (COMPLETION, CompletionRequest)
    body = json.dumps({**base, **fields}, allow_nan=True).encode()
    try:
        read(body, kind)
    except ApiError as error:
        assert error.status == 400
        assert json.loads(error.body)["error"]["message"]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_refused(body: bytes) -> None:
    with pytest.raises(ApiError) as raised:
        read(body, ChatRequest)
    assert raised.value.status == 400
