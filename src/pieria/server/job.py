"""From a request to what the engine is asked: token ids, sampling, and what neither of them may be.

Knows the model's names, vocabulary and length. Does not know the shape of answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pieria.engine.sampling_params import SamplingParams
from pieria.models.tokenizer import Tokenizer
from pieria.server.config import ServerConfig
from pieria.server.errors import ApiError, from_value_error, invalid, shown
from pieria.server.schema import GenerationRequest
from pieria.server.state import Served, ServerState

_SAME_NAME = (
    "n",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "stop",
    "stop_token_ids",
    "include_stop_str_in_output",
    "ignore_eos",
    "min_tokens",
    "prompt_logprobs",
    "skip_special_tokens",
)


@dataclass(frozen=True)
class Prompt:
    """text: as the client gave it, or as the template rendered it."""

    text: str
    tokens: Sequence[int]


@dataclass(frozen=True)
class Job:
    """A request as the engine takes it: every prompt once, with `params.n` choices each.

    prompt_only: no output is wanted, though the engine cannot draw less than one token. renamed:
    what the request calls some fields of `params`.
    """

    prompts: tuple[Prompt, ...]
    params: SamplingParams
    priority: int = 0
    salt: str = ""
    timeout_seconds: float | None = None
    prompt_only: bool = False
    renamed: Mapping[str, str] = field(default_factory=dict)

    def index(self, prompt: int, choice: int) -> int:
        """A choice's number in the answer."""
        return prompt * self.params.n + choice


def check_common(
    request: GenerationRequest, served: Served, state: ServerState, config: ServerConfig
) -> None:
    """ApiError on what neither schema nor `SamplingParams` can know."""
    check_model(request.model, state)
    check_token_ids("logit_bias", list(request.logit_bias or ()), served.engine.tokenizer)
    if request.stream_options is not None and not request.stream:
        raise invalid("stream_options", "stream_options is only allowed with stream=true")
    if request.prompt_logprobs is not None and request.stream:
        raise invalid("prompt_logprobs", "prompt_logprobs is not available with stream=true")
    check_logprobs("prompt_logprobs", request.prompt_logprobs, config)


def check_model(name: str | None, state: ServerState) -> None:
    """ApiError 404 if a model is named that is not served."""
    if name is not None and name not in state.names:
        raise ApiError(
            404,
            f"the model {shown(name)} does not exist; served: {', '.join(state.names)}",
            param="model",
            code="model_not_found",
        )


def check_logprobs(name: str, count: int | None, config: ServerConfig) -> None:
    """ApiError if more alternatives are asked for than this server gives."""
    if count is not None and count > config.max_logprobs:
        raise invalid(name, f"{name}={shown(count)} must be at most {config.max_logprobs}")


def sampling(
    request: GenerationRequest,
    special: dict[str, Any],
    defaults: Mapping[str, Any],
    renamed: Mapping[str, str],
) -> SamplingParams:
    """Defaults, over them what the request gives under the same name, over it `special`.

    ApiError 400 on what `SamplingParams` refuses.
    """
    given = {name: getattr(request, name) for name in _SAME_NAME} | special
    try:
        return SamplingParams(**{**defaults, **{k: v for k, v in given.items() if v is not None}})
    except ValueError as error:
        raise from_value_error(error, renamed) from error


def encode(name: str, text: str, special: bool, served: Served) -> list[int]:
    """The text's token ids. ApiError at once if they are surely more than the model takes.

    Tokenizing takes seconds for megabytes; nobody should have that done for nothing.
    """
    size = len(text.encode())
    if size > served.most_prompt_bytes:
        raise invalid(
            name,
            f"{name} has {size} bytes; the {served.engine.max_model_len} tokens of this model's"
            f" context hold at most {served.most_prompt_bytes}",
        )
    return served.engine.tokenizer.encode(text, add_special_tokens=special)


def check_token_ids(name: str, tokens: Sequence[int], tokenizer: Tokenizer) -> None:
    """ApiError if one of these ids, which are not negative, is outside the vocabulary."""
    if tokens and max(tokens) >= tokenizer.size:
        raise invalid(
            name, f"{name}: token id {max(tokens)} must be below the {tokenizer.size} of this model"
        )
