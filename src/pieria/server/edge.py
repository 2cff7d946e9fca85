"""The edge of HTTP: who is let in, how much is read, how errors go out, who has left.

Pure ASGI. Knows nothing of what the routes do.
"""

import asyncio
import logging
import secrets
from collections.abc import Coroutine
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pieria import logs
from pieria.clock import Clock
from pieria.engine.cause import cause
from pieria.server.access import Gate, audit
from pieria.server.config import ServerConfig
from pieria.server.course import Course
from pieria.server.errors import ApiError, failed, unavailable
from pieria.server.exchange import EVENTS, JSON, Exchange, Route, send_whole
from pieria.server.limits import Account
from pieria.server.state import ServerState

logger = logging.getLogger(__name__)
answered = logging.getLogger("pieria.server.answered")

BODIES = 8
"""All bodies in work together may be as large as this many of the largest allowed."""

MAX_HEADERS = 100
MAX_HEADER_BYTES = 16 * 1024
CLIENT_LEFT = "499"


class Edge:
    """The outermost layer: numbers requests, checks heads, counts and logs answers, sends errors.

    The log has no text of requests; what an error of ours says may quote them, so only where it
    came from is logged, and the rest at level debug.
    """

    def __init__(self, app: ASGIApp, gate: Gate, state: ServerState, clock: Clock) -> None:
        self._app = app
        self._clock = clock
        self._gate = gate
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise ValueError(f"this server speaks HTTP only, not {scope['type']}")
        began = self._clock.now()
        scope["request_id"] = secrets.token_hex(16)
        answer = _Answer(send, scope["request_id"])
        try:
            _check_headers(scope)
            self._gate.check_place(scope["headers"])
            await self._app(scope, receive, answer.send)
        except ApiError as error:
            await answer.fail(error)
        except _ClientLeft:
            pass
        except Exception as error:
            fields = {"request_id": scope["request_id"]}
            logger.error("a request failed: %s", logs.where(error), extra=fields)
            logger.debug("what it says", exc_info=error, extra=fields)
            await answer.fail(failed(scope["request_id"], cause(_doing(scope), error)))
        finally:
            endpoint = scope.get("endpoint")
            route = endpoint.route if isinstance(endpoint, Endpoint) else None
            path = "unmatched" if route is None else route.path
            status = answer.status or CLIENT_LEFT
            self._state.metrics.http_requests.labels(path, status).inc()
            self._log(scope, route, path, status, self._clock.now() - began)
            traces, course = self._state.traces, scope.get("course")
            if traces is not None and course is not None and course.prompt_tokens:
                told = {"http.route": path, "http.response.status_code": int(status)}
                told["pieria.request_id"] = scope["request_id"]
                traces.add(course, scope["headers"], began, told)

    def _log(
        self, scope: Scope, route: "Route | None", path: str, status: str, seconds: float
    ) -> None:
        account, course = scope.get("account"), scope.get("course")
        access = "unmatched" if route is None else route.access
        log = audit if access == "admin" else answered
        # Probes come every few seconds and tell nothing.
        level = logging.DEBUG if access in ("public", "metrics") else logging.INFO
        if not log.isEnabledFor(level):
            return
        fields = {
            "request_id": scope["request_id"],
            "key": None if account is None else account.name,
            "method": scope.get("method"),
            "route": path,
            "status": status,
            "seconds": round(seconds, 6),
        }
        if course is not None and course.prompt_tokens:
            fields |= {
                "prompt_tokens": course.prompt_tokens,
                "generated_tokens": course.generated_tokens,
            }
        log.log(level, "answered", extra=fields)


class Endpoint:
    """What stands before a route's handler: key, body, and the watch over the client."""

    def __init__(
        self,
        route: Route,
        gate: Gate,
        state: ServerState,
        config: ServerConfig,
        clock: Clock,
        routes: tuple[Route, ...] = (),
    ) -> None:
        self.route = route
        self._routes = routes
        self._gate = gate
        self._state = state
        self._config = config
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrived = self._clock.now()
        account = self._gate.admit(scope["headers"], self.route.access)
        scope["account"] = account
        if self.route.method != "POST":
            await self._work(b"", account, arrived, scope, receive, send)
            return
        counted = self.route.access == "inference"
        if counted:
            account.begin()
        state, reserved = self._state, 0
        try:
            reserved = self._reserve(scope)
            body = await self._read(scope, receive)
            state.buffered_bytes -= reserved - len(body)
            reserved = len(body)
            await self._work(body, account, arrived, scope, receive, send)
        finally:
            state.buffered_bytes -= reserved
            if counted:
                account.end()

    async def _work(
        self,
        body: bytes,
        account: Account,
        arrived: float,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        scope["course"] = course = Course()
        exchange = Exchange(
            id=scope["request_id"],
            account=account,
            body=body,
            path=scope["path_params"],
            arrived=arrived,
            state=self._state,
            config=self._config,
            clock=self._clock,
            send=send,
            gate=self._gate,
            course=course,
            routes=self._routes,
        )
        await _while_connected(self.route.handler(exchange), receive, self._state)

    def _reserve(self, scope: Scope) -> int:
        """Bytes taken for a body that is to come. ApiError 503 if all bodies would be too many."""
        limit = self._config.max_body_bytes
        announced = _content_length(scope)
        size = limit if announced is None else min(announced, limit)
        if self._state.buffered_bytes and self._state.buffered_bytes + size > BODIES * limit:
            raise unavailable("the requests in work have too large bodies to take another one now")
        self._state.buffered_bytes += size
        return size

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        """The request's body. ApiError if it is not JSON by its header, too large or too slow."""
        headers = dict(scope["headers"])
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        # Not pedantry: any web page can make its reader's browser send other types to this machine.
        if kind != b"application/json":
            raise ApiError(415, f"content-type must be {JSON}")
        limit = self._config.max_body_bytes
        if (_content_length(scope) or 0) > limit:
            raise _too_large(limit)
        seconds = self._config.body_timeout_seconds
        try:
            return await asyncio.wait_for(_read_body(receive, limit), seconds)
        except asyncio.TimeoutError:
            message = f"the request's body did not arrive within {seconds} s"
            raise ApiError(408, message, headers={"connection": "close"}) from None


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
            await send_whole(self.send, error.body, JSON, error.status, error.headers)
        elif self._streaming and not self._complete:
            event = b"data: " + error.body + b"\n\n"
            await self.send({"type": "http.response.body", "body": event, "more_body": False})


def _doing(scope: Scope) -> str:
    """What an error that nobody foresaw came up in, for a client's eyes."""
    course = scope.get("course")
    if scope.get("method") == "POST" and course is not None and course.prepared is None:
        return "preparing its prompt"
    return "answering it"


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


def _content_length(scope: Scope) -> int | None:
    """As announced, which is digits by then; None where the body comes in chunks."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value)
    return None


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"the request's body is larger than the {limit} bytes that are allowed")


def _check_headers(scope: Scope) -> None:
    headers = scope["headers"]
    total = sum(len(name) + len(value) for name, value in headers)
    if len(headers) > MAX_HEADERS or total > MAX_HEADER_BYTES:
        raise ApiError(
            431, f"more than {MAX_HEADERS} headers or {MAX_HEADER_BYTES} bytes of them were sent"
        )
