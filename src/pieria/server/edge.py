"""The edge of HTTP: who is let in, how much is read, how answers and errors go out, who has left.

Pure ASGI. Knows nothing of what the routes do.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pieria.clock import Clock
from pieria.server.config import ServerConfig
from pieria.server.errors import ApiError, broken
from pieria.server.keys import Keys
from pieria.server.responses import encode
from pieria.server.state import ServerState

logger = logging.getLogger(__name__)

MAX_HEADERS = 100
MAX_HEADER_BYTES = 16 * 1024
CLIENT_LEFT = "499"
JSON = "application/json"
EVENTS = "text/event-stream; charset=utf-8"


@dataclass(frozen=True)
class Route:
    """A line of the table of all that this server does. access: "key" unless all must reach it."""

    method: Literal["GET", "POST"]
    path: str
    handler: Callable[["Exchange"], Coroutine[Any, Any, None]]
    access: Literal["public", "key"]


@dataclass(frozen=True)
class Exchange:
    """One request, and the way to answer it. id: unique. arrived: on `clock`."""

    id: str
    body: bytes
    path: Mapping[str, str]
    arrived: float
    state: ServerState
    config: ServerConfig
    clock: Clock
    send: Send

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
        await _send_whole(self.send, body, content_type, status, headers or {})

    async def stream(self, events: AsyncGenerator[bytes, None]) -> None:
        """Answer with server-sent events as they come.

        Nothing goes out before the first, so that an error until then has its own status.
        """
        begun = False
        async with aclosing(events):
            async for event in events:
                if not begun:
                    headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
                    await self.send(_start(200, EVENTS, headers))
                    begun = True
                await self.send({"type": "http.response.body", "body": event, "more_body": True})
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})


class Edge:
    """The outermost layer: numbers requests, bounds headers, counts answers, sends errors."""

    def __init__(self, app: ASGIApp, state: ServerState) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise ValueError(f"this server speaks HTTP only, not {scope['type']}")
        scope["request_id"] = secrets.token_hex(16)
        answer = _Answer(send, scope["request_id"])
        try:
            _check_headers(scope)
            await self._app(scope, receive, answer.send)
        except ApiError as error:
            await answer.fail(error)
        except _ClientLeft:
            pass
        except Exception:
            logger.exception("request %s failed", scope["request_id"])
            await answer.fail(broken(scope["request_id"]))
        finally:
            endpoint = scope.get("endpoint")
            route = endpoint.route.path if isinstance(endpoint, Endpoint) else "unmatched"
            self._state.metrics.http_requests.labels(route, answer.status or CLIENT_LEFT).inc()


class Endpoint:
    """What stands before a route's handler: key, body, and the watch over the client."""

    def __init__(
        self, route: Route, keys: Keys, state: ServerState, config: ServerConfig, clock: Clock
    ) -> None:
        self.route = route
        self._keys = keys
        self._state = state
        self._config = config
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrived = self._clock.now()
        if self.route.access != "public":
            require_key(self._keys, scope)
        body = await self._read(scope, receive) if self.route.method == "POST" else b""
        exchange = Exchange(
            id=scope["request_id"],
            body=body,
            path=scope["path_params"],
            arrived=arrived,
            state=self._state,
            config=self._config,
            clock=self._clock,
            send=send,
        )
        await _while_connected(self.route.handler(exchange), receive, self._state)

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        """The request's body. ApiError if it is not JSON by its header, too large or too slow."""
        headers = dict(scope["headers"])
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        # Not pedantry: any web page can make its reader's browser send other types to this machine.
        if kind != b"application/json":
            raise ApiError(415, f"content-type must be {JSON}")
        limit = self._config.max_body_bytes
        if int(headers.get(b"content-length", b"0")) > limit:
            raise _too_large(limit)
        seconds = self._config.body_timeout_seconds
        try:
            return await asyncio.wait_for(_read_body(receive, limit), seconds)
        except asyncio.TimeoutError:
            message = f"the request's body did not arrive within {seconds} s"
            raise ApiError(408, message, headers={"connection": "close"}) from None


def require_key(keys: Keys, scope: Scope) -> None:
    """ApiError 401 unless the request carries a key, or none is needed."""
    if not keys.admit(scope["headers"]):
        raise ApiError(
            401,
            "a valid API key is needed, as `Authorization: Bearer KEY`",
            code="invalid_api_key",
            headers={"www-authenticate": "Bearer"},
        )


class _Answer:
    """The response so far. status: None until it begins."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._id = request_id.encode()
        self._streaming = False
        self._complete = False
        self.status: str | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message["headers"], (b"x-request-id", self._id)]
            message = {**message, "headers": headers}
            self._streaming = (b"content-type", EVENTS.encode()) in headers
            self.status = str(message["status"])
        elif not message.get("more_body", False):
            self._complete = True
        await self._send(message)

    async def fail(self, error: ApiError) -> None:
        """End with this error: as the response if none began, as its last event if one streams."""
        if self.status is None:
            await _send_whole(self.send, error.body, JSON, error.status, error.headers)
        elif self._streaming and not self._complete:
            event = b"data: " + error.body + b"\n\n"
            await self.send({"type": "http.response.body", "body": event, "more_body": False})


class _ClientLeft(Exception):
    """Nobody waits for the answer."""


async def _while_connected(
    work: Coroutine[Any, Any, None], receive: Receive, state: ServerState
) -> None:
    """Do `work`, but give it up as soon as the client leaves or the server ends."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    state.in_flight.add(task)
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        left = not task.done()
    finally:
        gone.cancel()
        task.cancel()
        # Work that is given up still has to tell the engine.
        await asyncio.gather(task, gone, return_exceptions=True)
        state.in_flight.discard(task)
    if left:
        return
    if task.cancelled():
        raise state.cancelled()
    task.result()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read_body(receive: Receive, limit: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _ClientLeft
        body += message.get("body", b"")
        if len(body) > limit:
            raise _too_large(limit)
        if not message.get("more_body", False):
            return bytes(body)


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"the request's body is larger than the {limit} bytes that are allowed")


def _check_headers(scope: Scope) -> None:
    headers = scope["headers"]
    total = sum(len(name) + len(value) for name, value in headers)
    if len(headers) > MAX_HEADERS or total > MAX_HEADER_BYTES:
        raise ApiError(
            431, f"more than {MAX_HEADERS} headers or {MAX_HEADER_BYTES} bytes of them were sent"
        )


def _start(status: int, content_type: str, headers: Mapping[str, str]) -> Message:
    pairs = [(b"content-type", content_type.encode())]
    pairs += [(name.encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": pairs}


async def _send_whole(
    send: Send, body: bytes, content_type: str, status: int, headers: Mapping[str, str]
) -> None:
    length = {"content-length": str(len(body))}
    await send(_start(status, content_type, {**length, **headers}))
    await send({"type": "http.response.body", "body": body, "more_body": False})
