"""What may come in: request bodies as strict schemas, so that nothing sent is silently ignored.

Knows the names, types and sizes of fields. What sampling values are allowed, `SamplingParams`
knows; how long a prompt may be, the engine.

A field is one of four things: served; `INERT`, taken because it cannot change an answer;
`NEUTRAL`, known but not served, so taken only with a value that asks for nothing; or unknown,
which is an error.
"""

import difflib
import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PlainValidator,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import from_json

from pieria.engine.sampling_params import (
    BIAS,
    MAX_BIASES,
    MAX_STOP_LENGTH,
    MAX_STOPS,
)
from pieria.server.errors import invalid, shown

MAX_MESSAGES = 4096
MAX_PARTS = 1024
MAX_PROMPTS = 1024
MAX_TOKENS = 2**22
MAX_TEMPLATE_KWARGS = 64
MAX_NAME = 256
MAX_TOKEN_ID = 2**31 - 1
MAX_TIMEOUT = 86_400

INERT = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "user",
    }
)
NEUTRAL: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "audio": (),
        "function_call": ("none",),
        "functions": ([],),
        "modalities": (["text"],),
        "moderation": (),
        "prediction": (),
        "prompt_cache_options": (),
        "reasoning_effort": (),
        "response_format": ({"type": "text"},),
        "service_tier": ("auto", "default"),
        "store": (False,),
        "suffix": ("",),
        "tool_choice": ("none",),
        "tools": ([],),
        "verbosity": (),
        "web_search_options": (),
    }
)
"""Values besides null that ask for nothing."""


class _Strict(BaseModel):
    """No coercion, no unknown field, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    within: ClassVar[str] = ""

    @model_validator(mode="before")
    @classmethod
    def _only_known(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise invalid(cls.within or None, f"{cls.within or 'the body'} must be a JSON object")
        for name in data:
            if name not in cls.model_fields:
                path = f"{cls.within}.{name}" if cls.within else name
                near = difflib.get_close_matches(name[:MAX_NAME], cls.model_fields, n=1)
                meant = f"; did you mean {near[0]}?" if near else ""
                raise invalid(_clip(path), f"unknown field {shown(path)}{meant}")
        return data


class StreamOptions(_Strict):
    within: ClassVar[str] = "stream_options"

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


def _stop(value: Any) -> str | list[str] | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        return value
    raise invalid("stop", f"stop={shown(value)} must be a string or a list of strings")


def _logit_bias(value: Any) -> dict[int, float] | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise invalid("logit_bias", f"logit_bias={shown(value)} must be an object")
    for key in value:
        if not re.fullmatch(r"[0-9]{1,10}", key):
            raise invalid("logit_bias", f"logit_bias key {shown(key)} must be a token id")
    return {int(key): bias for key, bias in value.items()}


def _template_kwargs(value: Any) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise invalid(
            "chat_template_kwargs", f"chat_template_kwargs={shown(value)} must be an object"
        )
    given: dict[str, Any] = value or {}
    if len(given) > MAX_TEMPLATE_KWARGS:
        raise invalid(
            "chat_template_kwargs",
            f"chat_template_kwargs has {len(given)} fields; at most {MAX_TEMPLATE_KWARGS} may be",
        )
    for name in given:
        if not re.fullmatch(_VARIABLE, name) or name in _OWN_KWARGS:
            raise invalid(
                "chat_template_kwargs",
                f"chat_template_kwargs: {shown(name)} must be a variable's name, and none of"
                f" {', '.join(sorted(_OWN_KWARGS))}",
            )
    return given


_VARIABLE = "[A-Za-z][A-Za-z0-9_]{0,63}"
_OWN_KWARGS = frozenset(
    {"add_generation_prompt", "continue_final_message", "functions", "messages", "self", "tools"}
)

_STOP_SCHEMA = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_LENGTH}
_Stop = Annotated[
    str | list[str] | None,
    PlainValidator(_stop),
    WithJsonSchema(
        {
            "anyOf": [
                _STOP_SCHEMA,
                {"type": "array", "items": _STOP_SCHEMA, "maxItems": MAX_STOPS},
                {"type": "null"},
            ]
        }
    ),
]
_LogitBias = Annotated[
    dict[int, float] | None,
    PlainValidator(_logit_bias),
    WithJsonSchema(
        {
            "type": ["object", "null"],
            "patternProperties": {
                "^[0-9]{1,10}$": {"type": "number", "minimum": BIAS.low, "maximum": BIAS.high}
            },
            "additionalProperties": False,
            "maxProperties": MAX_BIASES,
        }
    ),
]
_Name = Annotated[str, Field(max_length=MAX_NAME)]
_TokenId = Annotated[int, Field(ge=0, le=MAX_TOKEN_ID)]
_TokenIds = Annotated[list[_TokenId], Field(max_length=MAX_TOKENS, fail_fast=True)]
_TemplateKwargs = Annotated[
    dict[str, Any],
    PlainValidator(_template_kwargs),
    WithJsonSchema(
        {
            "type": ["object", "null"],
            "propertyNames": {
                "pattern": f"^{_VARIABLE}$",
                "not": {"enum": sorted(_OWN_KWARGS)},
            },
            "maxProperties": MAX_TEMPLATE_KWARGS,
        }
    ),
]


class GenerationRequest(_Strict):
    """What chat and completions share. None always means: as if it were not given."""

    model: _Name
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: _LogitBias = None
    stop: _Stop = None
    stop_token_ids: _TokenIds | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    prompt_logprobs: int | None = None
    skip_special_tokens: bool | None = None
    add_special_tokens: bool | None = None
    priority: Annotated[int, Field(ge=-(2**31), le=2**31 - 1)] = 0
    cache_salt: _Name | None = None
    timeout: Annotated[float, Field(gt=0, le=MAX_TIMEOUT)] | None = None
    return_token_ids: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_the_rest(cls, data: Any) -> Any:
        """The fields that are served, once it is sure that the others ask for nothing."""
        if not isinstance(data, dict):
            return data
        for name, values in NEUTRAL.items():
            value = data.get(name)
            if value is not None and not any(type(value) is type(v) and value == v for v in values):
                only = f"; only {' or '.join(map(json.dumps, values))} is allowed" if values else ""
                raise invalid(name, f"{name} is not supported{only}")
        return {k: v for k, v in data.items() if k not in NEUTRAL and k not in INERT}


_ROLES = ("system", "developer", "user", "assistant", "tool")
_MESSAGE_FIELDS = frozenset({"role", "content", "name"})
_ASSISTANT_NULLS = frozenset({"audio", "function_call", "refusal", "tool_calls"})


def _content(where: str, content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not 0 < len(content) <= MAX_PARTS:
        raise invalid(
            "messages",
            f"{where}.content={shown(content)} must be a string or a list of 1 to {MAX_PARTS} text"
            " parts",
        )
    texts = []
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            name = kind if isinstance(kind, str) else shown(part)
            raise invalid(
                "messages",
                f"{where}.content[{number}]: {_clip(name)} is not supported; only text is",
            )
        if set(part) != {"type", "text"} or not isinstance(part["text"], str):
            raise invalid(
                "messages",
                f"{where}.content[{number}]={shown(part)} must have a string `text`, nothing else",
            )
        texts.append(part["text"])
    return "\n".join(texts)


def _message(number: int, message: Any) -> dict[str, str]:
    """As a chat template takes it: text parts joined by newlines, a developer being the system."""
    where = f"messages[{number}]"
    if not isinstance(message, dict):
        raise invalid("messages", f"{where}={shown(message)} must be an object")
    role = message.get("role")
    if role not in _ROLES:
        raise invalid("messages", f"{where}.role={shown(role)} must be one of {', '.join(_ROLES)}")
    known = set(_MESSAGE_FIELDS)
    if role == "tool":
        known.add("tool_call_id")
    for name, value in message.items():
        if role == "assistant" and name in _ASSISTANT_NULLS:
            if value is not None and value != []:
                raise invalid("messages", f"{where}.{name} is not supported")
        elif name not in known:
            raise invalid("messages", f"unknown field {shown(f'{where}.{name}')}")
    read = {
        "role": "system" if role == "developer" else role,
        "content": _content(where, message.get("content")),
    }
    for name in ("name", "tool_call_id"):
        value = message.get(name)
        if value is not None:
            if not isinstance(value, str) or len(value) > MAX_NAME:
                raise invalid(
                    "messages",
                    f"{where}.{name}={shown(value)} must be a string of at most {MAX_NAME}"
                    " characters",
                )
            read[name] = value
    return read


def _messages(value: Any) -> list[dict[str, str]]:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_MESSAGES:
        raise invalid(
            "messages", f"messages={shown(value)} must be a list of 1 to {MAX_MESSAGES} messages"
        )
    return [_message(number, message) for number, message in enumerate(value)]


def _messages_schema() -> dict[str, Any]:
    part = {
        "type": "object",
        "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
        "required": ["type", "text"],
        "additionalProperties": False,
    }
    parts = {"type": "array", "items": part, "minItems": 1, "maxItems": MAX_PARTS}
    name = {"type": ["string", "null"], "maxLength": MAX_NAME}
    nothing = {"anyOf": [{"type": "null"}, {"type": "array", "maxItems": 0}]}
    own: dict[str, dict[str, Any]] = {
        "assistant": dict.fromkeys(sorted(_ASSISTANT_NULLS), nothing),
        "tool": {"tool_call_id": name},
    }
    kinds = [
        {
            "type": "object",
            "properties": {
                "role": {"enum": roles},
                "content": {"anyOf": [{"type": "string"}, parts]},
                "name": name,
                **own.get(roles[0], {}),
            },
            "required": ["role", "content"],
            "additionalProperties": False,
        }
        for roles in ([role for role in _ROLES if role not in own], ["assistant"], ["tool"])
    ]
    return {"type": "array", "items": {"oneOf": kinds}, "minItems": 1, "maxItems": MAX_MESSAGES}


Messages = Annotated[
    list[dict[str, str]], PlainValidator(_messages), WithJsonSchema(_messages_schema())
]


class ChatRequest(GenerationRequest):
    messages: Messages
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: _TemplateKwargs = {}


def _is_token_ids(value: Any) -> bool:
    return (
        isinstance(value, list)
        and 0 < len(value) <= MAX_TOKENS
        and all(type(token) is int and 0 <= token <= MAX_TOKEN_ID for token in value)
    )


def _prompts(value: Any) -> list[str | list[int]]:
    """One prompt or several, each a string or token ids."""
    if isinstance(value, str) or _is_token_ids(value):
        return [value]
    if isinstance(value, list) and 0 < len(value) <= MAX_PROMPTS:
        if all(isinstance(prompt, str) for prompt in value):
            return value
        if all(_is_token_ids(prompt) for prompt in value):
            return value
    raise invalid(
        "prompt",
        f"prompt={shown(value)} must be a string, a list of 1 to {MAX_PROMPTS} strings, a list of"
        f" 1 to {MAX_TOKENS} token ids, or a list of 1 to {MAX_PROMPTS} such lists",
    )


_ID_SCHEMA = {"type": "integer", "minimum": 0, "maximum": MAX_TOKEN_ID}
_IDS_SCHEMA = {"type": "array", "items": _ID_SCHEMA, "minItems": 1, "maxItems": MAX_TOKENS}
_Prompts = Annotated[
    list[str | list[int]],
    PlainValidator(_prompts),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                _IDS_SCHEMA,
                *(
                    {"type": "array", "items": items, "minItems": 1, "maxItems": MAX_PROMPTS}
                    for items in ({"type": "string"}, _IDS_SCHEMA)
                ),
            ]
        }
    ),
]


class CompletionRequest(GenerationRequest):
    prompt: _Prompts
    best_of: int | None = None
    echo: bool | None = None
    logprobs: int | None = None


class TokenizeRequest(_Strict):
    """Of a text, or of a chat as its template renders it: one of the two."""

    model: _Name | None = None
    prompt: str | None = None
    messages: Messages | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: _TemplateKwargs = {}


class DetokenizeRequest(_Strict):
    model: _Name | None = None
    tokens: _TokenIds


R = TypeVar("R", bound=_Strict)


def read(body: bytes, schema: type[R]) -> R:
    """The request in `body`.

    ApiError 400 naming field, value and what is allowed, or the place where JSON breaks off.
    """
    try:
        data: JsonValue = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise invalid(None, f"the body is not valid JSON: {error}") from None
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = str(first["loc"][0])
        path = "".join(f"[{at}]" if isinstance(at, int) else f".{at}" for at in first["loc"])[1:]
        if first["type"] == "missing":
            raise invalid(field, f"{path} is required") from None
        message = first["msg"].removeprefix("Input ")
        raise invalid(field, f"{path}={shown(first['input'])} {message}") from None


def _clip(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."
