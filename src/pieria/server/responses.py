"""What goes out, field by field: OpenAI's objects, with vLLM's extras where they were asked for.

Knows shapes only. `UNSET` leaves a field out, None writes null.
"""

from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

Finish = str | None


class PromptDetails(Struct):
    cached_tokens: int


class Usage(Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class PromptLogprob(Struct):
    """One token at one position of a prompt; objects of these are keyed by token id."""

    logprob: float
    rank: int | None
    decoded_token: str


PromptLogprobs = list[dict[str, PromptLogprob] | None]


class TopLogprob(Struct):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(Struct):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Struct):
    content: list[TokenLogprob]
    refusal: None = None


class Message(Struct):
    content: str
    role: str = "assistant"
    refusal: None = None


class ChatChoice(Struct):
    index: int
    message: Message
    logprobs: ChatLogprobs | None
    finish_reason: Finish
    stop_reason: int | str | UnsetType = UNSET
    token_ids: list[int] | UnsetType = UNSET


class ChatCompletion(Struct):
    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    object: str = "chat.completion"
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET


class ChatDelta(Struct):
    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET


class ChunkChoice(Struct):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: Finish = None
    stop_reason: int | str | UnsetType = UNSET
    token_ids: tuple[int, ...] | UnsetType = UNSET


class ChatChunk(Struct):
    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: Usage | None | UnsetType
    object: str = "chat.completion.chunk"
    prompt_token_ids: list[int] | UnsetType = UNSET


class CompletionLogprobs(Struct):
    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class CompletionChoice(Struct):
    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: Finish = None
    stop_reason: int | str | UnsetType = UNSET
    token_ids: list[int] | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET


class Completion(Struct):
    """Whole, or one piece of a stream: the shape is the same."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | None | UnsetType
    object: str = "text_completion"


class ModelCard(Struct):
    id: str
    created: int
    object: str = "model"
    owned_by: str = "pieria"
    max_model_len: int | UnsetType = UNSET
    virtual_device: str | UnsetType = UNSET


class ModelList(Struct):
    data: list[ModelCard]
    object: str = "list"


class Status(Struct):
    status: str
    reason: str | UnsetType = UNSET


class Version(Struct):
    version: str


class Load(Struct):
    """server_load: requests in work, as vLLM tells it. The others count choices and tokens."""

    server_load: int
    running: int
    waiting: int
    kv_cache_usage: float


class KeyUsage(Struct):
    """What one key has used since the server started."""

    name: str
    requests: int
    refused: int
    running: int
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int


class Flushed(Struct):
    """pages: that are free now."""

    pages: int


class Profile(Struct):
    """path: of the folder, or of the trace once it is written."""

    path: str


class Usages(Struct):
    keys: list[KeyUsage]


class Description(Struct):
    """OpenAPI's own form."""

    openapi: str
    info: dict[str, str]
    paths: dict[str, dict[str, Any]]
    components: dict[str, dict[str, Any]]


class Tokens(Struct):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | UnsetType = UNSET


class Text(Struct):
    prompt: str


encode = msgspec.json.Encoder().encode


def event(value: Struct) -> bytes:
    """One server-sent event."""
    return b"data: " + encode(value) + b"\n\n"


DONE = b"data: [DONE]\n\n"
