"""Conversations sent to an OpenAI-compatible server, as many at a time and as often as asked for.

Knows /v1/completions and its streams. Does not start servers, and does not sum up what came.
"""

import asyncio
import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pieria.bench.http_stream import Piece, Response, exchange, parse, request
from pieria.bench.metrics import Outcome
from pieria.bench.workload import Conversation, Tokens, Turn
from pieria.clock import Clock
from pieria.models.tokenizer import Tokenizer

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Target:
    """A server and how its requests are made.

    body: fields that all have in common; model: what it calls the model. tokenize_prompt: prompts
    are token ids, not text. whole: an answer that is shorter than asked for has failed.
    """

    url: str
    model: str
    tokenizer: Tokenizer
    body: Mapping[str, Any]
    headers: Headers = ()
    tokenize_prompt: bool = True
    whole: bool = True


@dataclass(frozen=True)
class Pace:
    """concurrency: most conversations at a time, None: all. rate: a second. burstiness: as vLLM's.

    The times between two beginnings are Gamma distributed with this shape and a mean of 1 / rate.
    """

    concurrency: int | None = None
    rate: float = math.inf
    burstiness: float = 1.0

    def arrivals(self, conversations: Sequence[Conversation], seed: object) -> list[float]:
        """Seconds after the run's beginning; those of a trace are its own."""
        draw = random.Random(f"{seed}/arrivals")
        now, found = 0.0, []
        for conversation in conversations:
            found.append(
                now if conversation.arrival_seconds is None else conversation.arrival_seconds
            )
            if self.rate < math.inf:
                now += draw.gammavariate(self.burstiness, 1 / (self.rate * self.burstiness))
        return found


async def drive(
    target: Target,
    conversations: Sequence[Conversation],
    arrivals: Sequence[float],
    concurrency: int | None,
    clock: Clock,
    advance: Callable[[], None] = lambda: None,
) -> tuple[list[Outcome], float]:
    """What became of every turn, and the seconds that all of them took.

    advance: called when a turn has been answered.
    """
    seats = asyncio.Semaphore(concurrency or len(conversations) or 1)
    answers: list[tuple[Turn, float, list[Piece], str]] = []
    unsent: list[Turn] = []
    began = clock.now()

    async def converse(conversation: Conversation, arrival: float) -> None:
        await asyncio.sleep(max(0.0, began + arrival - clock.now()))
        async with seats:
            said: Tokens = ()
            for number, turn in enumerate(conversation.turns, start=1):
                body = _body(target, said + turn.tokens, turn.output_tokens)
                url = f"{target.url}/v1/completions"
                answer = (turn, *await exchange("POST", url, clock, target.headers, body))
                answers.append(answer)
                advance()
                rest = conversation.turns[number:]
                if rest:
                    outcome = _outcome(target, *answer, began)
                    if outcome.error:
                        unsent.extend(rest)
                        return
                    said += turn.tokens + tuple(target.tokenizer.encode(outcome.text, False))

    await asyncio.gather(*map(converse, conversations, arrivals))
    seconds = clock.now() - began
    outcomes = [_outcome(target, *answer, began) for answer in answers]
    for turn in unsent:
        error = "not sent, since an earlier turn failed"
        outcomes.append(Outcome(seconds, len(turn.tokens), 0, 0.0, (), "", error))
    return outcomes, seconds


async def model_name(url: str, headers: Headers, wanted: str, clock: Clock) -> str:
    """What the server calls the model: `wanted` if it knows that, else the only one that it has.

    ValueError if it has several others, or does not say. OSError if it does not answer.
    """
    answer = await request("GET", f"{url}/v1/models", clock, headers)
    if answer.status != 200:
        raise OSError(f"{url}/v1/models: {answer.error or f'{answer.status} {answer.text[:200]}'}")
    try:
        names = [str(entry["id"]) for entry in json.loads(answer.text)["data"]]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{url}/v1/models names no models: {answer.text[:200]}") from None
    if wanted in names:
        return wanted
    if len(names) != 1:
        raise ValueError(f"the server has {', '.join(names)}; give one as served_model_name")
    return names[0]


def _body(target: Target, prompt: Tokens, output_tokens: int) -> bytes:
    fields = {
        "model": target.model,
        "prompt": list(prompt) if target.tokenize_prompt else target.tokenizer.decode(prompt),
        "max_tokens": output_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        **target.body,
    }
    return json.dumps(fields, separators=(",", ":")).encode()


def _outcome(
    target: Target, turn: Turn, sent: float, pieces: list[Piece], error: str, began: float
) -> Outcome:
    """What an answer says, or why it is none."""
    response = parse("POST", sent, pieces, error)
    times: list[float] = []
    usage: dict[str, Any] = {}
    text, problem = "", response.error
    if response.status != 200 and not problem:
        problem = f"{response.status}: {_message(response.text)}"
    ended = False
    for when, data in _events(response) if not problem else ():
        if data == b"[DONE]":
            ended = True
            continue
        try:
            event = json.loads(data)
            usage = event.get("usage") or usage
            if event.get("error"):
                problem = _message(data.decode())
            for choice in event.get("choices") or ():
                piece = choice.get("text") or ""
                text += piece
                # Some servers say why the last token was the last in an event of its own.
                if piece or not choice.get("finish_reason"):
                    times.append(when)
        except (ValueError, AttributeError, TypeError) as mistake:
            problem = f"an event that cannot be read: {data[:100]!r} ({mistake})"
    counted = usage.get("completion_tokens")
    if counted is None:
        counted = len(target.tokenizer.encode(text, False))
    if not problem and not (ended and times):
        problem = "the stream ended early"
    if not problem and target.whole and counted != turn.output_tokens:
        problem = f"{counted} tokens came of the {turn.output_tokens} that were asked for"
    return Outcome(
        started=sent - began,
        prompt_tokens=usage.get("prompt_tokens", len(turn.tokens)),
        output_tokens=counted,
        ttft=times[0] - sent if times else 0.0,
        gaps=tuple(later - earlier for earlier, later in zip(times, times[1:], strict=False)),
        text=text,
        error=problem,
    )


def _events(response: Response) -> list[Piece]:
    """The data of server-sent events, each with the time when it was complete."""
    found, rest = [], b""
    for when, data in response.body:
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            field, _, value = line.strip().partition(b":")
            if field == b"data":
                found.append((when, value.strip()))
    return found


def _message(text: str) -> str:
    """The sentence in an OpenAI-style error, or the beginning of what there is."""
    try:
        error = json.loads(text)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return text.strip()[:200] or "no explanation"
