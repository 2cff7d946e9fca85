"""The edge: bodies, headers, keys, ids, errors before and within an answer, clients that leave."""

import asyncio
from typing import Any

import httpx
import pytest

from pieria.clock import RealTime
from pieria.server.access import Gate
from pieria.server.edge import Edge, Endpoint
from pieria.server.errors import ApiError, invalid
from pieria.server.exchange import Exchange, Route
from tests.server.fakes import Toy

JSON = {"content-type": "application/json"}


class Caller:
    """Calls an ASGI application by hand: the body in pieces, and a client that can leave."""

    def __init__(self, handler: Any, *pieces: bytes, stays: bool = True, **options: Any) -> None:
        self.toy = Toy(**{"api_key": ("k",), **options})
        route = Route("POST", "/here", handler, "inference")
        clock = RealTime()
        gate = Gate(self.toy.config, clock)
        endpoint = Endpoint(route, gate, self.toy.state, self.toy.config, clock)
        self.app = Edge(endpoint, gate, self.toy.state, clock)
        self.pieces = list(pieces)
        self.stays = stays
        self.left = asyncio.Event()
        self.sent: list[dict[str, Any]] = []

    async def call(self, headers: dict[str, str] | None = None) -> None:
        pairs = {**JSON, "host": "toy", "authorization": "Bearer k", **(headers or {})}
        scope = {
            "type": "http",
            "headers": [(k.encode(), v.encode()) for k, v in pairs.items()],
            "path_params": {"id": "x"},
        }
        await self.app(scope, self._receive, self._send)

    async def _receive(self) -> dict[str, Any]:
        if self.pieces:
            piece = self.pieces.pop(0)
            more = bool(self.pieces) or not self.stays
            return {"type": "http.request", "body": piece, "more_body": more}
        if self.stays:
            await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return self.sent[0]["status"]

    @property
    def headers(self) -> dict[str, str]:
        return {k.decode(): v.decode() for k, v in self.sent[0]["headers"]}

    @property
    def body(self) -> bytes:
        assert [m.get("more_body", False) for m in self.sent[1:]] == [True] * (
            len(self.sent) - 2
        ) + [False]
        return b"".join(m["body"] for m in self.sent[1:])

    def counted(self, status: str) -> float:
        return self.toy.state.metrics.http_requests.labels("unmatched", status)._value.get()


async def echo(exchange: Exchange) -> None:
    await exchange.reply({"read": exchange.body.decode(), "path": dict(exchange.path)})


async def test_a_body_in_pieces_is_read_whole() -> None:
    caller = Caller(echo, b"on", b"e", b"")
    await caller.call()
    assert (caller.status, caller.body) == (200, b'{"read":"one","path":{"id":"x"}}')
    assert caller.headers["content-length"] == str(len(caller.body))
    assert len(caller.headers["x-request-id"]) == 32
    assert caller.counted("200") == 1


async def test_requests_have_ids_of_their_own() -> None:
    callers = [Caller(echo, b""), Caller(echo, b"")]
    for caller in callers:
        await caller.call({"x-request-id": "mine"})
    ids = {caller.headers["x-request-id"] for caller in callers}
    assert len(ids) == 2
    assert "mine" not in ids


async def test_a_body_too_large_is_refused_as_soon_as_that_is_known() -> None:
    caller = Caller(echo, *[b"x" * 600] * 5, max_body_bytes=1024)
    await caller.call()
    assert caller.status == 413
    assert b"larger than the 1024 bytes" in caller.body
    assert len(caller.pieces) == 3

    caller = Caller(echo, b"x", max_body_bytes=1024)
    await caller.call({"content-length": "1025"})
    assert (caller.status, len(caller.pieces)) == (413, 1)

    caller = Caller(echo, b"x" * 1024, max_body_bytes=1024)
    await caller.call({"content-length": "1024"})
    assert caller.status == 200


async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    caller = Caller(echo, b"x", body_timeout_seconds=0.1)
    forever = asyncio.Event()

    async def never() -> dict[str, Any]:
        await forever.wait()
        raise AssertionError

    caller._receive = never  # type: ignore[method-assign]
    await caller.call()
    assert (caller.status, caller.headers["connection"]) == (408, "close")


async def test_a_client_that_leaves_while_sending_gets_nothing() -> None:
    caller = Caller(echo, b"half", stays=False)
    await caller.call()
    assert caller.sent == []
    assert caller.counted("499") == 1


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_only_json_is_read(kind: str) -> None:
    caller = Caller(echo, b"{}")
    await caller.call({"content-type": kind})
    assert caller.status == 415


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON"])
async def test_json_may_be_called_so(kind: str) -> None:
    caller = Caller(echo, b"{}")
    await caller.call({"content-type": kind})
    assert caller.status == 200


async def test_the_key_is_asked_for_before_the_body_is_read() -> None:
    caller = Caller(echo, b"{}")
    await caller.call({"authorization": "Bearer wrong"})
    assert (caller.status, caller.headers["www-authenticate"]) == (401, "Bearer")
    assert b'"code":"invalid_api_key"' in caller.body
    assert caller.pieces == [b"{}"]


async def test_headers_are_bounded() -> None:
    for headers in ({f"h{i}": "v" for i in range(101)}, {"h": "v" * 17_000}):
        caller = Caller(echo, b"{}")
        await caller.call(headers)
        assert caller.status == 431


async def test_what_breaks_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(exchange: Exchange) -> None:
        raise RuntimeError("the password is hunter2")

    caller = Caller(broken, b"{}")
    await caller.call()
    assert caller.status == 500
    assert b"hunter2" not in caller.body
    assert b"answering it failed with RuntimeError" in caller.body
    assert caller.headers["x-request-id"].encode() in caller.body
    assert "RuntimeError at " in caplog.text
    assert "hunter2" not in caplog.text
    assert caller.headers["x-request-id"] == vars(caplog.records[0])["request_id"]


async def test_an_error_before_the_first_event_has_its_status() -> None:
    async def refuse(exchange: Exchange) -> None:
        async def nothing() -> Any:
            raise invalid("n", "too many")
            yield b""

        await exchange.stream(nothing())

    caller = Caller(refuse, b"{}")
    await caller.call()
    assert caller.status == 400


async def test_an_error_within_a_stream_is_its_last_event() -> None:
    async def half(exchange: Exchange) -> None:
        async def one() -> Any:
            yield b"data: 1\n\n"
            raise ApiError(500, "it broke")

        await exchange.stream(one())

    caller = Caller(half, b"{}")
    await caller.call()
    assert caller.status == 200
    assert caller.headers["content-type"] == "text/event-stream; charset=utf-8"
    first, second = caller.body.split(b"\n\n")[:2]
    assert first == b"data: 1"
    assert second.startswith(b'data: {"error":{"message":"it broke"')
    assert b"[DONE]" not in caller.body


class Waiting:
    """A handler that waits, and remembers how that ended."""

    def __init__(self, begins: bool) -> None:
        self.begins = begins
        self.begun = asyncio.Event()
        self.outcome = ""

    async def __call__(self, exchange: Exchange) -> None:
        await exchange.stream(self._events())

    async def _events(self) -> Any:
        try:
            if self.begins:
                yield b"data: 1\n\n"
            self.begun.set()
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            self.outcome = "cancelled"
            raise


@pytest.mark.parametrize("begins", [False, True])
async def test_work_for_a_client_that_left_is_given_up(begins: bool) -> None:
    handler = Waiting(begins)
    caller = Caller(handler, b"{}")
    call = asyncio.ensure_future(caller.call())
    await handler.begun.wait()
    assert len(caller.toy.state.in_flight) == 1
    caller.left.set()
    await call
    assert handler.outcome == "cancelled"
    assert len(caller.sent) == (2 if begins else 0)
    assert caller.counted("200" if begins else "499") == 1
    assert caller.toy.state.in_flight == set()


@pytest.mark.parametrize("begins", [False, True])
async def test_work_is_cut_off_with_an_error_when_the_server_ends(begins: bool) -> None:
    handler = Waiting(begins)
    caller = Caller(handler, b"{}")
    call = asyncio.ensure_future(caller.call())
    await handler.begun.wait()
    caller.toy.state.end("the server is ending")
    await call
    assert handler.outcome == "cancelled"
    assert caller.status == (200 if begins else 503)
    assert b'{"error":{"message":"the server is ending"' in caller.body


async def test_websockets_are_not_spoken() -> None:
    with pytest.raises(ValueError, match="HTTP only"):
        await Caller(echo).app({"type": "websocket"}, None, None)  # type: ignore[arg-type]


async def test_through_a_real_client() -> None:
    async with Toy(api_key=("k",)).http() as http:
        answer = await http.get("/v1/models", headers={"authorization": "Bearer k"})
    assert isinstance(answer, httpx.Response)
    assert answer.headers["x-request-id"]
