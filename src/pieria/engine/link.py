"""The private channel between two processes: a socket pair, length-prefixed msgpack. Torch-free.

A message is 4 bytes of little-endian length and that many bytes of one of the given types. The pair
has no name in any file system or network, so only the two that were given its ends can reach it.
"""

import asyncio
import contextlib
import selectors
import socket
import struct
from typing import Any

import msgspec

LONGEST_MESSAGE = 1 << 28
_LENGTH = struct.Struct("<I")


class Closed(Exception):
    """The other end is gone."""


class Malformed(msgspec.DecodeError):
    """A message of the wrong form. body: what came; the next message is not touched by it."""

    def __init__(self, reason: str, body: bytes) -> None:
        super().__init__(reason)
        self.body = body


def pack(message: Any) -> bytes:
    """A message as it goes over the wire."""
    body = msgspec.msgpack.encode(message)
    if len(body) > LONGEST_MESSAGE:
        raise ValueError(f"a message of {len(body)} bytes; at most {LONGEST_MESSAGE} are allowed")
    return _LENGTH.pack(len(body)) + body


class BlockingLink:
    """An end for threads; one may receive while another sends. kinds: the union to decode."""

    def __init__(self, sock: socket.socket, kinds: Any) -> None:
        self._socket = sock
        self._decoder = msgspec.msgpack.Decoder(kinds)

    def send(self, message: Any) -> None:
        """Closed if the other end is gone."""
        try:
            self._socket.sendall(pack(message))
        except OSError as error:
            raise Closed(str(error)) from error

    def receive(self) -> Any:
        """The next message. Closed at the end; Malformed on one of the wrong form."""
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size))
        if length > LONGEST_MESSAGE:
            raise Closed(f"a message of {length} bytes was announced")
        body = self._read(length)
        try:
            return self._decoder.decode(body)
        except msgspec.DecodeError as error:
            raise Malformed(str(error), body) from error

    def fileno(self) -> int:
        """What a selector watches."""
        return self._socket.fileno()

    def waiting(self) -> bool:
        """Whether something has arrived that was not received, be it the end."""
        with selectors.DefaultSelector() as selector:
            selector.register(self, selectors.EVENT_READ)
            return bool(selector.select(0))

    def close(self) -> None:
        """End the connection, also for a thread that is receiving."""
        # Closing alone would leave it open for as long as another thread waits in `recv`.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def finish(self) -> None:
        """Send nothing more and wait for the other end to close.

        Closing first could cost it what was sent: a system may drop that when the other end writes.
        """
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            while self._socket.recv(1 << 16):
                pass

    def _read(self, count: int) -> bytes:
        parts = []
        while count:
            try:
                part = self._socket.recv(min(count, 1 << 20))
            except OSError as error:
                raise Closed(str(error)) from error
            if not part:
                raise Closed("end of stream")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


class AsyncLink:
    """An end for an event loop. kinds: the union to decode."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kinds: Any
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = msgspec.msgpack.Decoder(kinds)

    @staticmethod
    async def open(sock: socket.socket, kinds: Any) -> "AsyncLink":
        reader, writer = await asyncio.open_connection(sock=sock)
        return AsyncLink(reader, writer, kinds)

    def send(self, message: Any) -> None:
        """Buffered; lost without notice if the other end is gone, which `receive` tells."""
        if not self._writer.is_closing():
            self._writer.write(pack(message))

    async def receive(self) -> Any:
        """The next message. Closed at the end; msgspec.DecodeError on one of the wrong form."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            if length > LONGEST_MESSAGE:
                raise Closed(f"a message of {length} bytes was announced")
            return self._decoder.decode(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, OSError) as error:
            raise Closed("end of stream") from error

    def close(self) -> None:
        """End the connection; `receive` raises Closed soon after."""
        self._writer.close()
