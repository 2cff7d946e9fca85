"""An OpenAI-compatible server that says what it is told to, over raw sockets."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

Body = dict[str, Any]
Events = Iterable[dict[str, Any] | str | bytes]


def piece(text: str, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": text, "finish_reason": finish}]}


def usage(prompt: int, completion: int) -> dict[str, Any]:
    return {
        "choices": [],
        "usage": {"prompt_tokens": prompt, "completion_tokens": completion},
    }


def letters(body: Body) -> Events:
    """A token a letter, as many as asked for."""
    count = body["max_tokens"]
    yield from (piece("a") for _ in range(count - 1))
    yield piece("z", "length")
    yield usage(len(body["prompt"]), count)
    yield "[DONE]"


class FakeServer:
    """bodies: of all requests so far. most: how many were there at the same time."""

    def __init__(self, answer: Callable[[Body], Events], models: list[str]) -> None:
        self.bodies: list[Body] = []
        self.most = 0
        self.url = ""
        self.headers: list[str] = []
        self._answer = answer
        self._models = models
        self._now = 0

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.headers.append(head)
            if head.startswith("GET /v1/models"):
                data = json.dumps({"data": [{"id": name} for name in self._models]}).encode()
                self._begin(writer, 200, len(data))
                writer.write(data)
                return
            length = int(head.lower().split("content-length:")[1].split()[0])
            body = json.loads(await reader.readexactly(length))
            self.bodies.append(body)
            await asyncio.sleep(0.01)
            await self._stream(writer, self._answer(body))
        finally:
            self._now -= 1
            writer.close()

    async def _stream(self, writer: asyncio.StreamWriter, events: Events) -> None:
        begun = False
        for event in events:
            if isinstance(event, dict) and "status" in event:
                data = json.dumps(event["error"]).encode()
                self._begin(writer, event["status"], len(data))
                writer.write(data)
                return
            if not begun:
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                begun = True
            if isinstance(event, bytes):  # as it is, and no more
                writer.write(event)
                return
            text = event if isinstance(event, str) else json.dumps(event)
            data = f"data: {text}\n\n".encode()
            writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    def _begin(self, writer: asyncio.StreamWriter, status: int, length: int) -> None:
        writer.write(f"HTTP/1.1 {status} Said\r\nContent-Length: {length}\r\n\r\n".encode())


@asynccontextmanager
async def serving(
    answer: Callable[[Body], Events] = letters, models: tuple[str, ...] = ("m",)
) -> AsyncIterator[FakeServer]:
    fake = FakeServer(answer, list(models))
    server = await asyncio.start_server(fake.talk, "127.0.0.1", 0)
    async with server:
        fake.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield fake
