"""From a checked request to news of its choices: what chat and completions have in common.

Knows prompts, sampling and the engine. Does not know the shape of answers.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from pieria.engine.plan import Logprob
from pieria.engine.sampling_params import SamplingParams
from pieria.engine.text import Delta, EngineDead, QueueFull, RequestFailed
from pieria.models.tokenizer import Tokenizer
from pieria.server.config import ServerConfig
from pieria.server.edge import Exchange
from pieria.server.errors import (
    ApiError,
    broken,
    from_value_error,
    invalid,
    shown,
    too_many,
    unavailable,
)
from pieria.server.responses import (
    PromptDetails,
    PromptLogprob,
    PromptLogprobs,
    TopLogprob,
    Usage,
)
from pieria.server.schema import GenerationRequest
from pieria.server.state import Served, ServerState

logger = logging.getLogger(__name__)

LEAST_LOGPROB = -9999.0
"""What OpenAI reports for a token that is next to impossible; JSON has no infinity."""

MERGE_BUFFER = 256

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


async def generate(
    job: Job, exchange: Exchange, served: Served
) -> AsyncGenerator[tuple[int, Delta], None]:
    """News of all choices as it comes, each with its prompt's number.

    A prompt's log-probabilities come before any other news of it. Leaving early aborts all choices.
    ApiError if the engine refuses or fails.
    """
    streams = [_watched(job, prompt, exchange, served) for prompt in job.prompts]
    async with aclosing(_merged(streams)) as news:
        async for number, delta in news:
            yield number, _without_output(delta) if job.prompt_only else delta


def _without_output(delta: Delta) -> Delta:
    finish = None if delta.finish_reason is None else "length"
    return replace(delta, text="", tokens=(), logprobs=(), finish_reason=finish, stop_reason=None)


async def _watched(
    job: Job, prompt: Prompt, exchange: Exchange, served: Served
) -> AsyncGenerator[Delta, None]:
    """One prompt's deltas, measured, the engine's errors turned into ours."""
    metrics, clock = exchange.state.metrics, exchange.clock
    latest: dict[int, float] = {}
    unfinished = set(range(job.params.n))
    outcome = "abort"
    deltas: AsyncIterator[Delta] = served.engine.stream(
        prompt.tokens, job.params, priority=job.priority, salt=job.salt
    )
    if job.params.prompt_logprobs is not None:
        deltas = _prompt_first(deltas)
    try:
        async with aclosing(deltas):  # type: ignore[type-var]
            async for delta in deltas:
                now = clock.now()
                if delta.tokens:
                    before = latest.get(delta.choice)
                    if before is None:
                        metrics.first_token_seconds.observe(now - exchange.arrived)
                    else:
                        gap = (now - before) / len(delta.tokens)
                        for _ in delta.tokens:
                            metrics.between_tokens_seconds.observe(gap)
                    latest[delta.choice] = now
                if delta.finish_reason is not None:
                    unfinished.discard(delta.choice)
                    metrics.finished_as[delta.finish_reason].inc()
                    metrics.request_seconds.observe(now - exchange.arrived)
                yield delta
    except QueueFull as error:
        unfinished.clear()
        raise too_many(error.retry_after_seconds) from error
    except ValueError as error:
        unfinished.clear()
        raise from_value_error(error, job.renamed) from error
    except RequestFailed as error:
        outcome = "error"
        logger.error("request %s failed in the engine: %s", exchange.id, error)
        raise broken(exchange.id) from error
    except EngineDead as error:
        outcome = "error"
        raise unavailable("the engine has failed; the log has the cause") from error
    finally:
        metrics.finished_as[outcome].inc(len(unfinished))


async def _prompt_first(deltas: AsyncIterator[Delta]) -> AsyncGenerator[Delta, None]:
    """The same deltas, none before the one that has the prompt's log-probabilities."""
    held: list[Delta] | None = []
    async with aclosing(deltas):  # type: ignore[type-var]  # async generators are what engines return
        async for delta in deltas:
            if held is None:
                yield delta
            elif delta.prompt_logprobs is None:
                held.append(delta)
            else:
                yield delta
                for other in held:
                    yield other
                held = None


async def _merged(
    streams: Sequence[AsyncGenerator[Delta, None]],
) -> AsyncGenerator[tuple[int, Delta], None]:
    """Items of all streams as they come, with their stream's number.

    The first error closes all, and so does leaving.
    """
    if len(streams) == 1:
        async with aclosing(streams[0]) as only:
            async for item in only:
                yield 0, item
        return
    queue: asyncio.Queue[tuple[int, Delta | Exception | None]] = asyncio.Queue(MERGE_BUFFER)

    async def pump(number: int, stream: AsyncGenerator[Delta, None]) -> None:
        end: Exception | None = None
        try:
            async with aclosing(stream):
                async for item in stream:
                    await queue.put((number, item))
        except Exception as error:
            end = error
        await queue.put((number, end))

    tasks = [asyncio.create_task(pump(*numbered)) for numbered in enumerate(streams)]
    running = len(tasks)
    try:
        while running:
            number, news = await queue.get()
            if isinstance(news, Exception):
                raise news
            if news is None:
                running -= 1
            else:
                yield number, news
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Tally:
    """Counts what an answer's `usage` says."""

    def __init__(self, job: Job) -> None:
        self._prompt = sum(len(prompt.tokens) for prompt in job.prompts)
        self._cached = [0] * len(job.prompts)
        self._generated = 0

    def add(self, prompt: int, delta: Delta) -> None:
        self._generated += len(delta.tokens)
        if delta.choice == 0:
            self._cached[prompt] = max(self._cached[prompt], delta.cached_tokens)

    @property
    def usage(self) -> Usage:
        return Usage(
            prompt_tokens=self._prompt,
            completion_tokens=self._generated,
            total_tokens=self._prompt + self._generated,
            prompt_tokens_details=PromptDetails(sum(self._cached)),
        )


@dataclass
class Choice:
    """What has come of one choice when the whole answer is sent at once."""

    texts: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    logprobs: list[Logprob] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def add(self, delta: Delta) -> None:
        self.texts.append(delta.text)
        self.tokens += delta.tokens
        self.logprobs += delta.logprobs
        if delta.finish_reason is not None:
            self.finish_reason, self.stop_reason = delta.finish_reason, delta.stop_reason


@dataclass
class Collected:
    """Everything that came of a job: choices in the answer's order, prompt_logprobs per prompt."""

    choices: list[Choice]
    prompt_logprobs: list[Sequence[Logprob | None]]
    usage: Usage


async def collect(job: Job, exchange: Exchange, served: Served) -> Collected:
    """Wait until all choices have ended. ApiError as `generate`."""
    tally = Tally(job)
    choices = [Choice() for _ in range(len(job.prompts) * job.params.n)]
    prompt_logprobs: list[Sequence[Logprob | None]] = [()] * len(job.prompts)
    async with aclosing(generate(job, exchange, served)) as news:
        async for prompt, delta in news:
            tally.add(prompt, delta)
            choices[job.index(prompt, delta.choice)].add(delta)
            if delta.prompt_logprobs is not None:
                prompt_logprobs[prompt] = delta.prompt_logprobs
    return Collected(choices, prompt_logprobs, tally.usage)


def bounded(logprob: float) -> float:
    return max(logprob, LEAST_LOGPROB)


def top_logprob(token: int, logprob: float, tokenizer: Tokenizer) -> TopLogprob:
    return TopLogprob(
        tokenizer.token_text(token), bounded(logprob), list(tokenizer.token_bytes(token))
    )


def prompt_logprobs(logprobs: Sequence[Logprob | None], tokenizer: Tokenizer) -> PromptLogprobs:
    """vLLM's shape: per position an object of the token itself and its alternatives by token id."""
    shaped: PromptLogprobs = []
    for one in logprobs:
        if one is None:
            shaped.append(None)
            continue
        ranked = {one.token: (one.logprob, one.rank)}
        for rank, (token, logprob) in enumerate(one.top, start=1):
            ranked.setdefault(token, (logprob, rank))
        shaped.append(
            {
                str(token): PromptLogprob(bounded(logprob), rank, tokenizer.token_text(token))
                for token, (logprob, rank) in ranked.items()
            }
        )
    return shaped
