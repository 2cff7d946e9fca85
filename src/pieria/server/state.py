"""What the handlers share: the served model, and whether the server is starting, up or ending.

Knows the conditions under which work is taken. `serve` changes it; handlers only read.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Any

from pieria.clock import Clock
from pieria.engine.client import EngineClient
from pieria.engine.text import TextEngine
from pieria.models.chat_template import ChatTemplate
from pieria.server.errors import ApiError, unavailable
from pieria.server.metrics import Metrics
from pieria.server.traces import Traces
from pieria.server.workers import Workers


@dataclass(frozen=True)
class Served:
    """A model that is ready. template: None if it has none.

    defaults: of `SamplingParams`, where a request is silent.
    """

    engine: TextEngine
    template: ChatTemplate | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def most_prompt_bytes(self) -> int:
        """No text of more bytes fits into the model's context."""
        tokenizer = self.engine.tokenizer
        longest = max(len(tokenizer.token_bytes(token)) for token in range(tokenizer.size))
        return longest * self.engine.max_model_len


class ServerState:
    """One server's state. names: what requests may call the model; version: of this program.
    virtual: what to tell users of a device that is not there; "" for one that is.

    served: None until the engine is ready. draining: no generation is begun any more. in_flight: a
    task for each request in work, from its body's arrival to the end of its answer. buffered_bytes:
    of bodies, of all requests in work. workers: threads for templates and tokenizers. traces:
    where spans go; None: nowhere.
    """

    def __init__(
        self,
        names: Sequence[str],
        version: str,
        client: EngineClient,
        clock: Clock,
        virtual: str = "",
    ) -> None:
        if not names:
            raise ValueError("served_model_name must name the model at least once")
        self.names = tuple(names)
        self.version = version
        self.client = client
        self.created = int(clock.wall())
        self.virtual = virtual
        made = sha256(f"{version} {names[0]} {virtual}".encode()).hexdigest()[:10]
        self.fingerprint = f"fp_virtual_{made}" if virtual else f"fp_{made}"
        self.metrics = Metrics(names[0], client)
        self.traces: Traces | None = None
        self.served: Served | None = None
        self.draining = False
        self.in_flight: set[asyncio.Task[None]] = set()
        self.buffered_bytes = 0
        self.workers = Workers()
        self.metrics.prepare_overdue.set_function(lambda: self.workers.overdue)
        self._ended: str | None = None

    def ready(self) -> Served:
        """The model, whatever else goes on. ApiError 503 if there is none (yet, or any more)."""
        if self.client.failure is not None:
            raise unavailable("the engine has failed; the log has the cause")
        if self.served is None:
            raise unavailable("the server is starting: the model is not loaded yet")
        return self.served

    def accepting(self) -> Served:
        """The model, for new work. ApiError 503 if there is none or the server is draining."""
        served = self.ready()
        if self.draining:
            raise unavailable("the server is shutting down and takes no new requests")
        return served

    def end(self, reason: str) -> None:
        """Cancel all work; clients are told `reason`."""
        self._ended = reason
        for task in self.in_flight:
            task.cancel()

    def cancelled(self) -> ApiError:
        """What to answer when work was cancelled, though the client is still there."""
        return unavailable(self._ended or "the request was cancelled")
