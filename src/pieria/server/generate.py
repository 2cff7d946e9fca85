"""From a job to news of its choices, or to all of them: what chat and completions have in common.

Knows the engine, its errors, and time. Does not know the shape of answers.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from pieria.engine.plan import Logprob
from pieria.engine.text import (
    WHOLE_INTERVAL,
    Delta,
    EngineDead,
    QueueFull,
    RequestFailed,
    TimedOut,
    TooSlow,
)
from pieria.server.errors import failed, from_value_error, late, too_many, unavailable
from pieria.server.exchange import Exchange
from pieria.server.job import Job, Prompt
from pieria.server.responses import PromptDetails, Usage
from pieria.server.state import Served

logger = logging.getLogger(__name__)

MERGE_BUFFER = 256


async def generate(
    job: Job, exchange: Exchange, served: Served, stream_interval: int
) -> AsyncGenerator[tuple[int, Delta], None]:
    """News of all choices as it comes, each with its prompt's number.

    stream_interval: tokens of a choice that are told at a time, after its first.
    A prompt's log-probabilities come before any other news of it. Leaving early aborts all choices.
    ApiError if the engine refuses or fails.
    """
    streams = [_watched(job, prompt, exchange, served, stream_interval) for prompt in job.prompts]
    async with aclosing(_merged(streams)) as news:
        async for number, delta in news:
            yield number, _without_output(delta) if job.prompt_only else delta


def _without_output(delta: Delta) -> Delta:
    finish = None if delta.finish_reason is None else "length"
    return replace(delta, text="", tokens=(), logprobs=(), finish_reason=finish, stop_reason=None)


async def _watched(
    job: Job, prompt: Prompt, exchange: Exchange, served: Served, stream_interval: int
) -> AsyncGenerator[Delta, None]:
    """One prompt's deltas, measured, the engine's errors turned into ours."""
    metrics, clock, account = exchange.state.metrics, exchange.clock, exchange.account
    first: dict[int, float] = {}
    latest: dict[int, float] = {}
    generated: Counter[int] = Counter()
    metrics.prompt_tokens.observe(len(prompt.tokens))
    metrics.choices.observe(job.params.n)
    if job.params.max_tokens is not None:
        metrics.most_tokens.observe(job.params.max_tokens)
    unfinished = set(range(job.params.n))
    outcome = "abort"
    deltas: AsyncIterator[Delta] = served.engine.stream(
        prompt.tokens,
        job.params,
        priority=job.priority,
        salt=account.salt + job.salt,
        tenant=account.name,
        share=1.0 if account.key is None else account.key.weight,
        timeout_seconds=job.timeout_seconds or exchange.config.request_timeout_seconds,
        stream_interval=stream_interval,
    )
    account.take_prompt(len(prompt.tokens))
    course = exchange.course
    course.prompt_tokens += len(prompt.tokens)
    submitted = clock.now()
    scheduled: dict[int, float] = {}
    if job.params.prompt_logprobs is not None:
        deltas = _prompt_first(deltas)
    try:
        async with aclosing(deltas):  # type: ignore[type-var]
            async for delta in deltas:
                now = clock.now()
                if delta.queued_seconds is not None:
                    metrics.queue_seconds.observe(delta.queued_seconds)
                    scheduled[delta.choice] = submitted + delta.queued_seconds
                    course.scheduled = course.scheduled or scheduled[delta.choice]
                if delta.tokens:
                    account.take_generated(len(delta.tokens))
                    course.generated_tokens += len(delta.tokens)
                    generated[delta.choice] += len(delta.tokens)
                    before = latest.get(delta.choice)
                    if before is None:
                        cached = delta.cached_tokens if delta.choice == 0 else 0
                        account.take_cached(cached)
                        course.cached_tokens += cached
                        metrics.first_token_seconds.observe(now - exchange.arrived)
                        first[delta.choice] = now
                        metrics.prefill_seconds.observe(now - scheduled.get(delta.choice, now))
                        course.first_token = course.first_token or now
                    else:
                        gap = (now - before) / len(delta.tokens)
                        for _ in delta.tokens:
                            metrics.between_tokens_seconds.observe(gap)
                    latest[delta.choice] = course.last_token = now
                if delta.finish_reason is not None:
                    unfinished.discard(delta.choice)
                    metrics.finished_as[delta.finish_reason].inc()
                    metrics.request_seconds.observe(now - exchange.arrived)
                    count = generated[delta.choice]
                    metrics.generated_tokens.observe(count)
                    seconds = now - first.get(delta.choice, now)
                    metrics.decode_seconds.observe(seconds)
                    if count > 1:
                        metrics.per_token_seconds.observe(seconds / (count - 1))
                yield delta
    except QueueFull as error:
        account.take_prompt(-len(prompt.tokens))  # nothing will come of them
        unfinished.clear()
        raise too_many(error.retry_after_seconds) from error
    except ValueError as error:
        account.take_prompt(-len(prompt.tokens))
        unfinished.clear()
        raise from_value_error(error, job.renamed) from error
    except RequestFailed as error:
        outcome = "error"
        logger.error("request %s failed in the engine: %s", exchange.id, error)
        raise failed(exchange.id, str(error)) from error
    except (TimedOut, TooSlow) as error:
        raise late(str(error)) from error
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
    async with aclosing(generate(job, exchange, served, WHOLE_INTERVAL)) as news:
        async for prompt, delta in news:
            tally.add(prompt, delta)
            choices[job.index(prompt, delta.choice)].add(delta)
            if delta.prompt_logprobs is not None:
                prompt_logprobs[prompt] = delta.prompt_logprobs
    return Collected(choices, prompt_logprobs, tally.usage)
