"""One connection: how many there may be, how long a head may take, how long a client may not read.

Adds limits to uvicorn's connection, which bounds sizes but not times. Knows no requests.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from pieria.server.config import ServerConfig


class Connection(H11Protocol):
    """A timer runs only while a head is incomplete, or the client's share of buffers is full."""

    def __init__(self, *, limits: ServerConfig, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._limits = limits
        self._head_timer = _Timer(limits.header_timeout_seconds)
        self._send_timer = _Timer(limits.send_timeout_seconds)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._limits.max_connections:
            transport.abort()
        else:
            self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_timer.stop()
        self._send_timer.stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._send_timer.start(self.loop, self.transport)

    def resume_writing(self) -> None:
        self._send_timer.stop()
        super().resume_writing()

    def _watch_head(self) -> None:
        """Count from the first byte of a head, whatever comes after it, until it is complete."""
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering or self.timeout_keep_alive_task is not None:
            self._head_timer.stop()
        else:
            self._head_timer.start(self.loop, self.transport)


class _Timer:
    """Cuts a connection off so many seconds after it was first started, unless it is stopped."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._handle: asyncio.TimerHandle | None = None

    def start(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
        if self._handle is None:
            self._handle = loop.call_later(self._seconds, transport.abort)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
