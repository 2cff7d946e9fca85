"""Requests whose answers come in pieces, and when each piece came. Knows HTTP/1.1, no API.

The least work while others are being timed: what arrives is kept with its time and taken apart
afterwards. A connection for each request.
"""

import asyncio
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import h11

from pieria.clock import Clock

Piece = tuple[float, bytes]
"""When it came, by the clock, and what."""


@dataclass(frozen=True)
class Response:
    """sent: when the request went out. status: 0 if there was no complete answer, for `error`.

    body: its pieces, without HTTP's framing.
    """

    sent: float
    status: int
    body: tuple[Piece, ...]
    error: str = ""

    @property
    def text(self) -> str:
        return b"".join(data for _, data in self.body).decode(errors="replace")


async def request(
    method: str,
    url: str,
    clock: Clock,
    headers: Sequence[tuple[str, str]] = (),
    body: bytes = b"",
) -> Response:
    """One request on a connection of its own, which the server closes at the answer's end."""
    sent, pieces, error = await exchange(method, url, clock, headers, body)
    return parse(method, sent, pieces, error)


async def exchange(
    method: str, url: str, clock: Clock, headers: Sequence[tuple[str, str]], body: bytes
) -> tuple[float, list[Piece], str]:
    """`request` without taking the answer apart, which `parse` does."""
    address = urlsplit(url)
    secure = ssl.create_default_context() if address.scheme == "https" else None
    port = address.port or (443 if secure else 80)
    target = (address.path or "/") + (f"?{address.query}" if address.query else "")
    head = h11.Request(
        method=method,
        target=target,
        headers=[
            ("Host", address.netloc),
            ("Connection", "close"),
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            *headers,
        ],
    )
    framing = h11.Connection(h11.CLIENT)
    wire = (framing.send(head) or b"") + (framing.send(h11.Data(body)) or b"")
    loop = asyncio.get_running_loop()
    sent = clock.now()
    try:
        _, receiver = await loop.create_connection(
            lambda: _Receiver(wire, clock), address.hostname or "", port, ssl=secure
        )
    except OSError as error:
        return sent, [], f"{type(error).__name__}: {error}"
    try:
        await receiver.closed
    except OSError as error:
        return sent, receiver.pieces, f"{type(error).__name__}: {error}"
    finally:
        receiver.transport.abort()
    return sent, receiver.pieces, ""


def parse(method: str, sent: float, pieces: Sequence[Piece], error: str) -> Response:
    """The answer to a request of `method`. One that is cut short has status 0 and what there is."""
    framing = h11.Connection(h11.CLIENT)
    framing.send(h11.Request(method=method, target="/", headers=[("Host", "-")]))
    framing.send(h11.EndOfMessage())
    status, body = 0, []
    try:
        for event, when in _events(framing, pieces):
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body.append((when, bytes(event.data)))
            elif isinstance(event, h11.EndOfMessage):
                return Response(sent, status, tuple(body))
    except h11.RemoteProtocolError as problem:
        error = error or f"the answer is cut short or not HTTP: {problem}"
    return Response(sent, 0, tuple(body), error or "the connection was closed without an answer")


def _events(framing: h11.Connection, pieces: Sequence[Piece]) -> Iterator[tuple[h11.Event, float]]:
    last = pieces[-1][0] if pieces else 0.0
    for when, data in (*pieces, (last, b"")):
        framing.receive_data(data)
        while (event := framing.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            assert isinstance(event, h11.Event)
            yield event, when
            if isinstance(event, (h11.EndOfMessage, h11.ConnectionClosed)):
                return


class _Receiver(asyncio.Protocol):
    """Sends a request, and keeps what comes until the other side closes."""

    def __init__(self, wire: bytes, clock: Clock) -> None:
        self.pieces: list[Piece] = []
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport
        self._wire = wire
        self._now = clock.now

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._wire)

    def data_received(self, data: bytes) -> None:
        self.pieces.append((self._now(), data))

    def connection_lost(self, problem: Exception | None) -> None:
        if self.closed.done():
            return
        if problem is None:
            self.closed.set_result(None)
        else:
            self.closed.set_exception(problem)
