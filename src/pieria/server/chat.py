"""POST /v1/chat/completions. Knows chat templates and the shape of chat answers."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from msgspec import UNSET, UnsetType

from pieria.engine.plan import Logprob
from pieria.engine.text import Delta
from pieria.models.chat_template import ChatTemplate
from pieria.models.tokenizer import Tokenizer
from pieria.server.config import ServerConfig
from pieria.server.errors import invalid, shown
from pieria.server.exchange import Exchange
from pieria.server.generate import Collected, Tally, collect, generate
from pieria.server.job import Job, Prompt, check_common, check_logprobs, encode, sampling
from pieria.server.logprobs import prompt_logprobs, token_logprob
from pieria.server.responses import (
    DONE,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatDelta,
    ChatLogprobs,
    ChunkChoice,
    Message,
    Usage,
    event,
)
from pieria.server.schema import ChatRequest, TokenizeRequest, read
from pieria.server.state import Served, ServerState


async def chat_completions(exchange: Exchange) -> None:
    """Continue a conversation."""
    served = exchange.state.accepting()
    request, job = await exchange.prepare(
        _prepare, exchange.body, served, exchange.state, exchange.config
    )
    exchange.course.chat = True
    answer = _Answer(request, job, exchange, served)
    if request.stream:
        await exchange.stream(answer.events())
    else:
        await exchange.reply(answer.whole(await collect(job, exchange, served)))


def template(config: ServerConfig, source: str | None, tokenizer: Tokenizer) -> ChatTemplate | None:
    """The template that `config` names, else the model's own `source`.

    None if there is neither. ValueError if it cannot be read or is not one.
    """
    path = config.chat_template
    if path is not None:
        try:
            source = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ValueError(f"chat_template: cannot read {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"chat_template: {path} must be UTF-8 text: {error}") from error
    if source is None:
        return None
    ends = (tokenizer.bos, tokenizer.eos)
    bos, eos = (None if token is None else tokenizer.token_text(token) for token in ends)
    return ChatTemplate(source, bos, eos, seconds=config.prepare_timeout_seconds)


def render(request: ChatRequest | TokenizeRequest, served: Served) -> Prompt:
    """The conversation as the model's template writes it, and its tokens.

    ApiError 400 if the template refuses it.
    """
    assert request.messages is not None
    if served.template is None:
        raise invalid("messages", "this model has no chat template; use /v1/completions")
    continued = bool(request.continue_final_message)
    prompted = request.add_generation_prompt
    try:
        text = served.template.render(
            request.messages,
            add_generation_prompt=not continued if prompted is None else prompted,
            continue_final_message=continued,
            **request.chat_template_kwargs,
        )
    except ValueError as error:
        raise invalid("messages", f"the chat template refused the messages: {error}") from error
    # A template writes its special tokens itself.
    return Prompt(text, encode("messages", text, bool(request.add_special_tokens), served))


def _prepare(
    body: bytes, served: Served, state: ServerState, config: ServerConfig
) -> tuple[ChatRequest, Job]:
    """All the work before the engine, done off the event loop: parse, check, render, tokenize."""
    request = read(body, ChatRequest)
    check_common(request, served, state, config)
    if request.top_logprobs is not None and not request.logprobs:
        raise invalid("top_logprobs", "top_logprobs needs logprobs=true")
    check_logprobs("top_logprobs", request.top_logprobs, config)
    limit, newer = request.max_tokens, request.max_completion_tokens
    if limit is not None and newer is not None and limit != newer:
        raise invalid(
            "max_tokens",
            f"max_tokens={shown(limit)} and max_completion_tokens={shown(newer)} name the same"
            " limit; give one of them",
        )
    renamed = {"logprobs": "top_logprobs"}
    if newer is not None:
        renamed["max_tokens"] = "max_completion_tokens"
    special: dict[str, Any] = {
        "max_tokens": limit if newer is None else newer,
        "logprobs": (request.top_logprobs or 0) if request.logprobs else None,
    }
    # Unlike a completion, a chat answer is as long as it gets.
    defaults = {"max_tokens": None, **served.defaults}
    params = sampling(request, special, defaults, renamed)
    job = Job(
        (render(request, served),),
        params,
        request.priority,
        request.cache_salt or "",
        request.timeout,
        renamed=renamed,
    )
    return request, job


class _Answer:
    """One chat answer, in either form."""

    def __init__(self, request: ChatRequest, job: Job, exchange: Exchange, served: Served) -> None:
        self._request = request
        self._job = job
        self._exchange = exchange
        self._served = served
        self._tokenizer = served.engine.tokenizer
        self._id = f"chatcmpl-{exchange.id}"
        self._created = int(exchange.clock.wall())

    def whole(self, collected: Collected) -> ChatCompletion:
        request = self._request
        choices = [
            ChatChoice(
                index=index,
                message=Message(choice.text),
                logprobs=self._logprobs(choice.logprobs),
                finish_reason=choice.finish_reason,
                stop_reason=UNSET if choice.stop_reason is None else choice.stop_reason,
                token_ids=choice.tokens if request.return_token_ids else UNSET,
            )
            for index, choice in enumerate(collected.choices)
        ]
        asked = request.prompt_logprobs is not None
        return ChatCompletion(
            id=self._id,
            created=self._created,
            model=request.model,
            system_fingerprint=self._exchange.state.fingerprint,
            choices=choices,
            usage=collected.usage,
            prompt_logprobs=prompt_logprobs(collected.prompt_logprobs[0], self._tokenizer)
            if asked
            else UNSET,
            prompt_token_ids=self._prompt_ids,
        )

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Per choice a chunk with the role, chunks with text, and one with the finish reason.

        Then the usage, if asked.
        """
        options = self._request.stream_options
        job, tally = self._job, Tally(self._job)
        interval = self._exchange.config.stream_interval
        begun: set[int] = set()
        async with aclosing(generate(job, self._exchange, self._served, interval)) as news:
            async for prompt, delta in news:
                tally.add(prompt, delta)
                usage: Usage | None | UnsetType = UNSET
                if options is not None and options.include_usage:
                    usage = tally.usage if options.continuous_usage_stats else None
                pieces = []
                if delta.choice not in begun:
                    first = ChunkChoice(delta.choice, ChatDelta(role="assistant", content=""))
                    pieces.append(self._chunk([first], usage, UNSET if begun else self._prompt_ids))
                    begun.add(delta.choice)
                pieces += [self._chunk([choice], usage) for choice in self._choices(delta)]
                if pieces:
                    yield b"".join(pieces)
        if options is not None and options.include_usage:
            yield self._chunk([], tally.usage)
        yield DONE

    def _choices(self, delta: Delta) -> list[ChunkChoice]:
        """What one delta adds: text if there is any, and the end if it is that."""
        choices = []
        ids = delta.tokens if self._request.return_token_ids else UNSET
        logprobs = self._logprobs(delta.logprobs) if delta.logprobs else None
        if delta.text or logprobs or ids:
            content = ChatDelta(content=delta.text)
            choices.append(ChunkChoice(delta.choice, content, logprobs, token_ids=ids))
        if delta.finish_reason is not None:
            stop = UNSET if delta.stop_reason is None else delta.stop_reason
            choices.append(
                ChunkChoice(
                    delta.choice,
                    ChatDelta(),
                    finish_reason=delta.finish_reason,
                    stop_reason=stop,
                )
            )
        return choices

    def _chunk(
        self,
        choices: list[ChunkChoice],
        usage: Usage | None | UnsetType,
        prompt_ids: list[int] | UnsetType = UNSET,
    ) -> bytes:
        return event(
            ChatChunk(
                id=self._id,
                created=self._created,
                model=self._request.model,
                system_fingerprint=self._exchange.state.fingerprint,
                choices=choices,
                usage=usage,
                prompt_token_ids=prompt_ids,
            )
        )

    @property
    def _prompt_ids(self) -> list[int] | UnsetType:
        return list(self._job.prompts[0].tokens) if self._request.return_token_ids else UNSET

    def _logprobs(self, logprobs: Sequence[Logprob]) -> ChatLogprobs | None:
        if not self._request.logprobs:
            return None
        return ChatLogprobs([token_logprob(one, self._tokenizer) for one in logprobs])
