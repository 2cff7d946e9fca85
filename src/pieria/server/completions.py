"""POST /v1/completions. Knows the forms of prompts and the shape of text completions."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from msgspec import UNSET, UnsetType

from pieria.engine.plan import Logprob
from pieria.engine.text import Delta
from pieria.models.tokenizer import Tokenizer
from pieria.server.config import ServerConfig
from pieria.server.errors import invalid, shown
from pieria.server.exchange import Exchange
from pieria.server.generate import Collected, Tally, collect, generate
from pieria.server.job import (
    Job,
    Prompt,
    check_common,
    check_logprobs,
    check_token_ids,
    encode,
    sampling,
)
from pieria.server.logprobs import bounded, prompt_logprobs, text_of
from pieria.server.responses import (
    DONE,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    Usage,
    event,
)
from pieria.server.schema import CompletionRequest, read
from pieria.server.state import Served, ServerState


async def completions(exchange: Exchange) -> None:
    """Continue one or more texts."""
    served = exchange.state.accepting()
    request, job = await exchange.prepare(
        _prepare, exchange.body, served, exchange.state, exchange.config
    )
    answer = _Answer(request, job, exchange, served)
    if request.stream:
        await exchange.stream(answer.events())
    else:
        await exchange.reply(answer.whole(await collect(job, exchange, served)))


def _prepare(
    body: bytes, served: Served, state: ServerState, config: ServerConfig
) -> tuple[CompletionRequest, Job]:
    """All the work before the engine, done off the event loop: parse, check, tokenize."""
    request = read(body, CompletionRequest)
    check_common(request, served, state, config)
    check_logprobs("logprobs", request.logprobs, config)
    if request.best_of is not None and request.best_of != (request.n or 1):
        raise invalid("best_of", f"best_of={shown(request.best_of)} is only supported equal to n")
    echoed = request.logprobs if request.echo else None
    if request.prompt_logprobs is not None and echoed not in (None, request.prompt_logprobs):
        raise invalid(
            "prompt_logprobs", "prompt_logprobs and logprobs must be equal when echo is true"
        )
    # As scoring tools ask for the log-probabilities of a text.
    prompt_only = bool(request.echo) and request.max_tokens == 0
    special = {
        "max_tokens": 1 if prompt_only else request.max_tokens,
        "logprobs": request.logprobs,
        "prompt_logprobs": request.prompt_logprobs if echoed is None else echoed,
    }
    params = sampling(request, special, served.defaults, {})
    prompts = tuple(_prompt(prompt, request, served) for prompt in request.prompt)
    job = Job(
        prompts,
        params,
        request.priority,
        request.cache_salt or "",
        request.timeout,
        prompt_only=prompt_only,
    )
    return request, job


def _prompt(prompt: str | list[int], request: CompletionRequest, served: Served) -> Prompt:
    tokenizer = served.engine.tokenizer
    if isinstance(prompt, str):
        special = request.add_special_tokens is not False
        return Prompt(prompt, encode("prompt", prompt, special, served))
    check_token_ids("prompt", prompt, tokenizer)
    text = tokenizer.decode(prompt, skip_special_tokens=False) if request.echo else ""
    return Prompt(text, prompt)


class _Answer:
    """One completion answer, in either form."""

    def __init__(
        self, request: CompletionRequest, job: Job, exchange: Exchange, served: Served
    ) -> None:
        self._request = request
        self._job = job
        self._exchange = exchange
        self._served = served
        self._tokenizer = served.engine.tokenizer
        self._id = f"cmpl-{exchange.id}"
        self._created = int(exchange.clock.wall())

    def whole(self, collected: Collected) -> Completion:
        request = self._request
        choices = []
        for index, choice in enumerate(collected.choices):
            number = index // self._job.params.n
            prompt, of_prompt = self._job.prompts[number], collected.prompt_logprobs[number]
            shaped = None
            if request.logprobs is not None:
                shaped = _Logprobs(self._tokenizer)
                if request.echo:
                    shaped.add_prompt(prompt, of_prompt)
                shaped.add(choice.logprobs)
            asked = request.prompt_logprobs is not None
            choices.append(
                CompletionChoice(
                    index=index,
                    text=prompt.text + choice.text if request.echo else choice.text,
                    logprobs=None if shaped is None else shaped.take(),
                    finish_reason=choice.finish_reason,
                    stop_reason=UNSET if choice.stop_reason is None else choice.stop_reason,
                    token_ids=choice.tokens if request.return_token_ids else UNSET,
                    prompt_token_ids=self._prompt_ids(number),
                    prompt_logprobs=prompt_logprobs(of_prompt, self._tokenizer) if asked else UNSET,
                )
            )
        return self._completion(choices, collected.usage)

    async def events(self) -> AsyncGenerator[bytes, None]:
        """A piece for each bit of news, a choice's last with its finish reason; then the usage."""
        request, job = self._request, self._job
        options = request.stream_options
        tally, interval = Tally(job), self._exchange.config.stream_interval
        shapes: dict[int, _Logprobs] = {}
        of_prompts: dict[int, Sequence[Logprob | None]] = {}
        async with aclosing(generate(job, self._exchange, self._served, interval)) as news:
            async for prompt, delta in news:
                tally.add(prompt, delta)
                if delta.prompt_logprobs is not None:
                    of_prompts[prompt] = delta.prompt_logprobs
                index = job.index(prompt, delta.choice)
                first = index not in shapes
                shape = shapes.setdefault(index, _Logprobs(self._tokenizer))
                choice = self._piece(index, delta, shape, of_prompts.get(prompt, ()), first)
                if choice is None:
                    continue
                usage: Usage | None | UnsetType = UNSET
                if options is not None and options.include_usage:
                    usage = tally.usage if options.continuous_usage_stats else None
                yield event(self._completion([choice], usage))
        if options is not None and options.include_usage:
            yield event(self._completion([], tally.usage))
        yield DONE

    def _piece(
        self,
        index: int,
        delta: Delta,
        shape: "_Logprobs",
        of_prompt: Sequence[Logprob | None],
        first: bool,
    ) -> CompletionChoice | None:
        """What one delta adds to its choice, after the prompt if that is echoed.

        None if nothing of it can be seen yet.
        """
        request = self._request
        text = delta.text
        number = index // self._job.params.n
        if first and request.echo:
            text = self._job.prompts[number].text + text
            if request.logprobs is not None:
                shape.add_prompt(self._job.prompts[number], of_prompt)
        shape.add(delta.logprobs)
        news = delta.tokens or first if request.return_token_ids else False
        if not (text or shape.tokens or news or delta.finish_reason):
            return None
        return CompletionChoice(
            index=index,
            text=text,
            logprobs=shape.take() if request.logprobs is not None else None,
            finish_reason=delta.finish_reason,
            stop_reason=UNSET if delta.stop_reason is None else delta.stop_reason,
            token_ids=list(delta.tokens) if request.return_token_ids else UNSET,
            prompt_token_ids=self._prompt_ids(number) if first else UNSET,
        )

    def _completion(
        self, choices: list[CompletionChoice], usage: Usage | None | UnsetType
    ) -> Completion:
        return Completion(
            id=self._id,
            created=self._created,
            model=self._request.model,
            system_fingerprint=self._exchange.state.fingerprint,
            choices=choices,
            usage=usage,
        )

    def _prompt_ids(self, number: int) -> list[int] | UnsetType:
        if not self._request.return_token_ids:
            return UNSET
        return list(self._job.prompts[number].tokens)


class _Logprobs:
    """One choice's log-probabilities as they come.

    Offsets count characters from the start of its text, as the texts of its tokens add up.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._offset = 0
        self._clear()

    def add_prompt(self, prompt: Prompt, logprobs: Sequence[Logprob | None]) -> None:
        for token, one in zip(prompt.tokens, logprobs, strict=True):
            self._add(token, one)

    def add(self, logprobs: Sequence[Logprob]) -> None:
        for one in logprobs:
            self._add(one.token, one)

    def take(self) -> CompletionLogprobs:
        """What was added since the last time."""
        taken = CompletionLogprobs(self._offsets, self._values, self.tokens, self._top)
        self._clear()
        return taken

    def _clear(self) -> None:
        self.tokens: list[str] = []
        self._offsets: list[int] = []
        self._values: list[float | None] = []
        self._top: list[dict[str, float] | None] = []

    def _add(self, token: int, one: Logprob | None) -> None:
        text = text_of(token, self._tokenizer)
        self.tokens.append(text)
        self._offsets.append(self._offset)
        self._offset += len(text)
        if one is None:
            self._values.append(None)
            self._top.append(None)
            return
        self._values.append(bounded(one.logprob))
        top = {text: bounded(one.logprob)}
        for other, logprob in one.top:
            top.setdefault(text_of(other, self._tokenizer), bounded(logprob))
        self._top.append(top)
