"""One request and the way to answer it: what handlers of routes are given.

Knows how answers go out over ASGI. Does not know who is let in, nor what routes do.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, ParamSpec, TypeVar

from msgspec import Struct
from pydantic import BaseModel
from starlette.types import Message, Send

from pieria.clock import Clock
from pieria.server.access import Access, Gate
from pieria.server.config import ServerConfig
from pieria.server.course import Course
from pieria.server.errors import unavailable
from pieria.server.limits import Account
from pieria.server.responses import encode
from pieria.server.state import ServerState
from pieria.server.workers import Crowded

P = ParamSpec("P")
T = TypeVar("T")

JSON = "application/json"
EVENTS = "text/event-stream; charset=utf-8"


@dataclass(frozen=True)
class Route:
    """A line of the table of all that this server does.

    access: the scope of the key that it asks for, "public" if all must reach it. Routes of scope
    "admin" are only where admin requests are listened for. takes, gives: the types of bodies;
    streams: of events, if it can give them. content_type: of a whole answer.
    """

    method: Literal["GET", "POST"]
    path: str
    handler: Callable[["Exchange"], Coroutine[Any, Any, None]]
    access: Access
    takes: type[BaseModel] | None = None
    gives: type[Struct] | None = None
    streams: type[Struct] | None = None
    content_type: str = JSON


@dataclass(frozen=True)
class Exchange:
    """One request, and the way to answer it.

    id: unique. account: whose it is. arrived: on `clock`. gate: who else is let in.
    routes: all where this one is.
    """

    id: str
    account: Account
    body: bytes
    path: Mapping[str, str]
    arrived: float
    state: ServerState
    config: ServerConfig
    clock: Clock
    send: Send
    gate: Gate
    course: Course
    routes: tuple[Route, ...]

    async def prepare(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `work` returns, done off the event loop. ApiError 503 if it takes too long.

        Also if too much that took too long before is not done yet.
        """
        seconds, workers = self.config.prepare_timeout_seconds, self.state.workers
        try:
            done = await workers.run(partial(work, *args, **kwargs), seconds)
        except asyncio.TimeoutError:
            self.state.metrics.prepare_timeouts.inc()
            message = f"template and tokenizer were not done with this request in {seconds:g} s"
            raise unavailable(message) from None
        except Crowded:
            self.state.metrics.prepare_refused.inc()
            message = f"templates and tokenizers are busy with {workers.overdue} earlier requests"
            raise unavailable(f"{message}, whose time of {seconds:g} s is up") from None
        self.course.prepared = self.clock.now()
        return done

    async def reply(self, value: Any, status: int = 200, retry_after: int | None = None) -> None:
        """Answer with a JSON value."""
        headers = {} if retry_after is None else {"retry-after": str(retry_after)}
        await self.reply_bytes(encode(value), JSON, status, headers)

    async def reply_bytes(
        self,
        body: bytes,
        content_type: str,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Answer with a whole body."""
        await send_whole(self.send, body, content_type, status, headers or {})

    async def stream(self, events: AsyncGenerator[bytes, None]) -> None:
        """Answer with server-sent events as they come.

        Nothing goes out before the first, so that an error until then has its own status.
        """
        begun = False
        async with aclosing(events):
            async for event in events:
                if not begun:
                    headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
                    await self.send(start(200, EVENTS, headers))
                    begun = True
                await self.send({"type": "http.response.body", "body": event, "more_body": True})
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})


def start(status: int, content_type: str, headers: Mapping[str, str]) -> Message:
    """The first message of an answer."""
    pairs = [(b"content-type", content_type.encode())]
    pairs += [(name.encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": pairs}


async def send_whole(
    send: Send, body: bytes, content_type: str, status: int, headers: Mapping[str, str]
) -> None:
    """A whole answer."""
    length = {"content-length": str(len(body))}
    await send(start(status, content_type, {**length, **headers}))
    await send({"type": "http.response.body", "body": body, "more_body": False})
