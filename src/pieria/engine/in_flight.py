"""Requests as the front keeps them, so that another engine can go on with them. Torch-free.

Knows messages and token ids. Does not know engines.
"""

import asyncio
from dataclasses import dataclass, field

import msgspec

from pieria.engine.messages import Add, Output

MOST_BEHIND = 16_384
"""Tokens and log-probabilities that may wait for a slow reader; some megabytes."""


class TooSlow(Exception):
    """Whoever reads a request's news is too far behind."""


class News:
    """What is told of some requests and not read yet, in order; bounded."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[tuple[Output | None, int]] = asyncio.Queue()
        self._behind = 0
        self._ended: Exception | None = None

    def put(self, output: Output) -> None:
        """One more, unless the reader is so far behind that it ends here."""
        if self._ended is not None:
            return
        size = 1 + sum(1 + len(p.top) for p in output.logprobs)
        self._behind += size
        if self._behind > MOST_BEHIND:
            self.end(TooSlow(f"{self._behind} tokens and log-probabilities wait to be read"))
        else:
            self._waiting.put_nowait((output, size))

    def end(self, error: Exception) -> None:
        """The reader gets this error after what waits; at once if it is too slow."""
        if self._ended is None:
            self._ended = error
            if isinstance(error, TooSlow):
                while not self._waiting.empty():
                    self._waiting.get_nowait()
            self._waiting.put_nowait((None, 0))

    async def get(self) -> Output:
        """The next; raises what it was ended with."""
        output, size = await self._waiting.get()
        self._behind -= size
        if output is None:
            assert self._ended is not None
            raise self._ended
        return output


@dataclass(eq=False)
class InFlight:
    """A request and what has come of it.

    sent_as: its id in the engine that has it, "" if none does. sends: how often it was sent.
    suspicion: that engines end because of it, since it last had a token.
    """

    add: Add
    news: News
    sent_as: str = ""
    sends: int = 0
    suspicion: float = 0.0
    output: list[int] = field(default_factory=list)
    prompt_logprobs: int = 0

    def message(self, leader: str | None) -> Add:
        """What an engine is asked: the rest of it, under an id that no engine knew before."""
        self.sends += 1
        if self.sends == 1:
            self.sent_as = self.add.id
            return self.add
        self.sent_as = f"{self.add.id}~{self.sends}"
        return msgspec.structs.replace(
            self.add,
            id=self.sent_as,
            leader=leader or None,
            output=tuple(self.output),
            prompt_logprobs_sent=self.prompt_logprobs,
        )

    def received(self, output: Output) -> None:
        self.output += output.tokens
        self.prompt_logprobs += len(output.prompt_logprobs)
