"""Text on top of the engine: token ids become text, stop strings end requests. Torch-free.

Knows a tokenizer and an engine client. Does not know HTTP, templates or devices.
"""

import logging
import secrets
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass, replace

from pieria.clock import Clock, RealTime
from pieria.engine.cause import EngineDead, RequestFailed, cause
from pieria.engine.client import EngineClient, TimedOut
from pieria.engine.drain import Drain
from pieria.engine.in_flight import TooSlow
from pieria.engine.messages import Add, Output
from pieria.engine.plan import Logprob
from pieria.engine.sampling_params import SamplingParams
from pieria.logs import where
from pieria.models.tokenizer import Tokenizer

__all__ = [
    "WHOLE_INTERVAL",
    "Delta",
    "EngineDead",
    "QueueFull",
    "RequestFailed",
    "TextEngine",
    "TimedOut",
    "TooSlow",
]

log = logging.getLogger(__name__)

WHOLE_INTERVAL = 32
"""Tokens of which the engine tells at a time where only the whole answer is wanted: it shares
processors, and in one process the interpreter's lock, with whoever listens."""


class QueueFull(Exception):
    """No room for another request now. retry_after_seconds: after which there should be."""

    def __init__(self, in_flight: int, limit: int, what: str, retry_after_seconds: float) -> None:
        super().__init__(f"{in_flight} {what} are running or waiting; the limit is {limit}")
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True)
class Delta:
    """News of one choice. text: new text, stop strings dealt with; it may lag behind `tokens`.

    logprobs: one for each of tokens, when asked. prompt_logprobs: for every prompt token, None for
    the first; with the first token of choice 0, when asked. finish_reason: "stop" or "length" with
    the last delta. stop_reason: the stop string or stop token id that ended the choice; None for
    end-of-text. queued_seconds: that it waited for its first step, with the first delta.
    """

    choice: int
    text: str = ""
    tokens: tuple[int, ...] = ()
    logprobs: tuple[Logprob, ...] = ()
    prompt_logprobs: tuple[Logprob | None, ...] | None = None
    cached_tokens: int = 0
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    queued_seconds: float | None = None


class TextEngine:
    """Streams text from prompts of token ids.

    vocabulary: ids that the model knows; a tokenizer may have more, and may have fewer. limit: most
    requests, each choice one, in flight; token_limit: most tokens of the prompts of those that had
    no token yet; None: no limit.
    """

    def __init__(
        self,
        client: EngineClient,
        tokenizer: Tokenizer,
        max_model_len: int,
        vocabulary: int,
        limit: int | None = None,
        token_limit: int | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.client = client
        self.tokenizer = tokenizer
        self.max_model_len = max_model_len
        self.vocabulary = min(vocabulary, tokenizer.size)
        self.limit = limit
        self.token_limit = token_limit
        self.queued_tokens = 0
        clock = clock or RealTime()
        self._finished, self._begun = Drain(clock), Drain(clock)

    async def stream(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        *,
        priority: int = 0,
        salt: str = "",
        tenant: str = "",
        share: float = 1.0,
        timeout_seconds: float | None = None,
        stream_interval: int = 1,
    ) -> AsyncGenerator[Delta, None]:
        """Deltas of all choices as they come. Leaving early aborts the request.

        stream_interval: tokens of a delta after the first; 1 where texts are looked at for stops.
        tenant, share: whose it is, and how much of the engine that one has beside others.
        ValueError for a prompt that cannot be served, QueueFull, RequestFailed, EngineDead,
        TimedOut when the time is up, TooSlow if the deltas are not taken.
        """
        max_tokens = self._max_tokens(prompt, params)
        self._check_tokens("the prompt", prompt)
        self._check_tokens("logit_bias", params.logit_bias or ())
        self._check_room(len(prompt), params.n)
        seed = secrets.randbits(63) if params.seed is None else params.seed
        id = secrets.token_hex(8)
        adds = [
            Add(
                id=f"{id}-{choice}",
                tokens=tuple(prompt),
                params=params if choice == 0 else replace(params, prompt_logprobs=None),
                seed=seed,
                max_tokens=max_tokens,
                choice=choice,
                leader=f"{id}-0" if choice else None,
                priority=priority,
                salt=salt,
                tenant=tenant,
                share=share,
                stream_interval=1 if params.stops else stream_interval,
            )
            for choice in range(params.n)
        ]
        choices = {add.id: _Choice(add, self.tokenizer) for add in adds}
        queued = set(choices)
        if not self.client.in_flight:
            self._finished.begins()
        if not self.queued_tokens:
            self._begun.begins()
        self.queued_tokens += len(prompt) * params.n
        outputs = self.client.stream(adds, timeout_seconds)
        try:
            async for output in outputs:
                if output.id in queued:
                    queued.discard(output.id)
                    self.queued_tokens -= len(prompt)
                    self._begun.leaves(len(prompt))
                choice = choices.get(output.id)
                if choice is None:
                    continue
                delta = self._fed(choice, output)
                if delta.finish_reason is not None:
                    del choices[output.id]
                    self._finished.leaves()
                    if output.finish_reason is None:
                        self.client.abort({output.id})
                yield delta
                if not choices:
                    return
        finally:
            self.queued_tokens -= len(prompt) * len(queued)
            for _ in choices:
                self._finished.leaves()
            await outputs.aclose()

    def _check_room(self, tokens: int, choices: int) -> None:
        """QueueFull if so many choices after a prompt of so many tokens are too many now."""
        before, most = self.client.in_flight, self.limit
        if most is not None and before + choices > most:
            wait = self._finished.seconds(before + choices - most)
            raise QueueFull(before, most, "requests", wait)
        # One prompt alone is always taken: it fits into the model.
        before, most = self.queued_tokens, self.token_limit
        if most is not None and before and before + tokens * choices > most:
            wait = self._begun.seconds(before + tokens * choices - most)
            raise QueueFull(before, most, "tokens of prompts", wait)

    def _fed(self, choice: "_Choice", output: Output) -> Delta:
        """RequestFailed, with the cause, if the engine or the text of its tokens fails."""
        try:
            return choice.feed(output)
        except RequestFailed:
            raise
        except Exception as error:  # ends this request
            log.error("the text of request %s failed: %s", output.id, where(error))
            log.debug("what it says", exc_info=error)
            raise RequestFailed(cause("making text of its tokens", error)) from error

    def _check_tokens(self, what: str, ids: Iterable[int]) -> None:
        """ValueError if one is no token id: it would fail in the engine, with others beside it."""
        for id in ids:
            if type(id) is not int or not 0 <= id < self.vocabulary:
                raise ValueError(
                    f"{what} has token id {id!r}; ids are integers below {self.vocabulary}"
                )

    def _max_tokens(self, prompt: Sequence[int], params: SamplingParams) -> int:
        """The output limit, checked against the model's length.

        ValueError if prompt and output do not fit.
        """
        if not prompt:
            raise ValueError("the prompt has no tokens; at least 1 is needed")
        room = self.max_model_len - len(prompt)
        wanted = 1 if params.max_tokens is None else params.max_tokens
        if room < wanted:
            raise ValueError(
                f"this model's maximum context length is {self.max_model_len} tokens; the prompt"
                f" has {len(prompt)} and max_tokens is {wanted}: {len(prompt) + wanted} in all"
            )
        return room if params.max_tokens is None else params.max_tokens


class _Choice:
    """What has come of one choice. held: the end of its text, which may begin a stop string."""

    def __init__(self, add: Add, tokenizer: Tokenizer) -> None:
        self.add = add
        self.tokenizer = tokenizer
        self.decoder = tokenizer.decoder(add.params.skip_special_tokens)
        self.stops = add.params.stops
        self.held = ""
        self.tokens = 0
        self.prompt_logprobs: list[Logprob | None] = [None]

    def feed(self, output: Output) -> Delta:
        """RequestFailed if the engine ended the request with an error."""
        if output.finish_reason == "error":
            raise RequestFailed(output.error)
        params = self.add.params
        self.prompt_logprobs += output.prompt_logprobs
        prompt_logprobs = None
        if params.prompt_logprobs is not None and output.tokens and not self.tokens:
            prompt_logprobs = tuple(self.prompt_logprobs)
        self.tokens += len(output.tokens)
        stopped = output.finish_reason == "stop" and not params.include_stop_str_in_output
        spoken = output.tokens[:-1] if stopped else output.tokens
        # A model may have more rows than its tokenizer has tokens; those ids have no text.
        new = self.decoder.push([t for t in spoken if t < self.tokenizer.size])
        if output.finish_reason is not None:
            new += self.decoder.flush()
        text, stop = self._release(new, last=output.finish_reason is not None)
        return Delta(
            choice=self.add.choice,
            text=text,
            tokens=output.tokens,
            logprobs=output.logprobs,
            prompt_logprobs=prompt_logprobs,
            cached_tokens=output.cached_tokens,
            finish_reason="stop" if stop is not None else output.finish_reason,
            stop_reason=stop if stop is not None else output.stop_reason,
            queued_seconds=output.queued_seconds,
        )

    def _release(self, new: str, last: bool) -> tuple[str, str | None]:
        """The text that can go out, and the stop string that was met in it."""
        text = self.held + new
        if not self.stops:
            return text, None
        # What is held may contain a stop string from before `min_tokens`: only new ones count.
        starts = [(max(0, len(self.held) - len(stop) + 1), stop) for stop in self.stops]
        found = [(at, stop) for start, stop in starts if (at := text.find(stop, start)) >= 0]
        if found and self.tokens >= self.add.params.min_tokens:
            at, stop = min(found, key=lambda f: (f[0], len(f[1])))
            keep = at + len(stop) if self.add.params.include_stop_str_in_output else at
            return text[:keep], stop
        if last:
            return text, None
        hold = max(_overlap(text, stop) for stop in self.stops)
        self.held = text[len(text) - hold :]
        return text[: len(text) - hold], None


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that begins `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
