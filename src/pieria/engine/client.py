"""The front's view of an engine: an asynchronous handle on its process or thread. Torch-free.

Knows messages and token ids. Does not know text.
"""

import asyncio
import importlib
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import msgspec

from pieria.clock import Clock
from pieria.engine.link import AsyncLink, Closed
from pieria.engine.messages import (
    Abort,
    Add,
    Failed,
    FromEngine,
    Output,
    Progress,
    Ready,
    Shutdown,
    Start,
    Stats,
)

CLOSE_SECONDS = 5.0
"""How long an engine has to end by itself, and then its process or thread."""


class EngineDead(Exception):
    """The engine has ended. str() is the root cause."""


class EngineClient:
    """One engine, alive from `start_process` or `start_thread` until `close` or its own end.

    stats: the latest known. failure: why the engine ended, None while it lives. refused: whether it
    never began because of what it was asked to be. in_flight: requests not finished.
    """

    def __init__(self, link: AsyncLink, clock: Clock, ended: Callable[[float], str | None]) -> None:
        """ended: waits that many seconds for the engine to end, then cuts it off.

        It says what went wrong, None if nothing did.
        """
        self._link = link
        self._clock = clock
        self._ended = ended
        self._patience_seconds = CLOSE_SECONDS
        self._queues: dict[str, asyncio.Queue[Output | EngineDead]] = {}
        self._ready: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self._last_progress = clock.now()
        self.stats = Stats()
        self.failure: str | None = None
        self.refused = False
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start_process(
        cls, factory: str, settings: dict[str, Any], clock: Clock
    ) -> "EngineClient":
        """An engine in a process of its own; `factory` is the dotted name of the runner's."""
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "pieria.engine.process", str(theirs.fileno()), factory]
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        theirs.close()

        def ended(patience_seconds: float) -> str | None:
            try:
                code = process.wait(patience_seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
            return None if code == 0 else f"the engine process ended with exit code {code}"

        return await cls._start(ours, settings, clock, ended)

    @classmethod
    async def start_thread(
        cls, factory: str, settings: dict[str, Any], clock: Clock
    ) -> "EngineClient":
        """An engine in a thread of this process."""
        from pieria.engine import process

        module, name = factory.split(":")
        make = getattr(importlib.import_module(module), name)
        ours, theirs = socket.socketpair()
        thread = threading.Thread(target=process.run, args=(theirs, make), daemon=True)
        thread.start()

        def ended(patience_seconds: float) -> str | None:
            thread.join(patience_seconds)
            return None

        return await cls._start(ours, settings, clock, ended)

    @classmethod
    async def _start(
        cls,
        sock: socket.socket,
        settings: dict[str, Any],
        clock: Clock,
        ended: Callable[[float], str | None],
    ) -> "EngineClient":
        client = cls(await AsyncLink.open(sock, FromEngine), clock, ended)
        client._link.send(Start(settings))
        return client

    @property
    def ready(self) -> bool:
        return self._ready.done() and self.failure is None

    @property
    def in_flight(self) -> int:
        return len(self._queues)

    async def wait_ready(self) -> Ready:
        """When the engine can take requests.

        ValueError if the settings do not allow it to begin, EngineDead if it failed otherwise.
        """
        return await asyncio.shield(self._ready)

    def progressing(self, within_seconds: float) -> bool:
        """Whether the engine lives and was heard of, idle or after a step, within that time."""
        recent = self._clock.now() - self._last_progress <= within_seconds
        return self.ready and recent

    async def stream(self, adds: Sequence[Add]) -> AsyncGenerator[Output, None]:
        """News of these requests until all are finished; leaving early aborts those that are not.

        EngineDead if the engine ends before they do.
        """
        if self.failure is not None:
            raise EngineDead(self.failure)
        news: asyncio.Queue[Output | EngineDead] = asyncio.Queue()
        live = {add.id for add in adds}
        try:
            for add in adds:
                self._queues[add.id] = news
                self._link.send(add)
            while live:
                output = await news.get()
                if isinstance(output, EngineDead):
                    raise output
                if output.finish_reason is not None:
                    live.discard(output.id)
                yield output
        finally:
            self.abort(live)

    def abort(self, ids: set[str]) -> None:
        """Forget these requests, here at once and in the engine before its next step."""
        known = tuple(id for id in ids if self._queues.pop(id, None) is not None)
        if known and self.failure is None:
            self._link.send(Abort(known))

    async def close(self) -> None:
        """End the engine and wait for it; one that is still loading, or stuck, is cut off."""
        if self.ready:
            self._link.send(Shutdown())
            await asyncio.wait([self._reading], timeout=CLOSE_SECONDS)
        else:
            self._patience_seconds = 0.0
        self._link.close()
        await self._reading

    async def _read(self) -> None:
        try:
            while True:
                self._take(await self._link.receive())
        except Closed:
            pass
        except msgspec.DecodeError as error:
            self._fail(f"the engine sent what is no message: {error}")
        self._link.close()
        wrong = await asyncio.to_thread(self._ended, self._patience_seconds)
        self._fail(wrong or "the engine was shut down")

    def _take(self, message: Any) -> None:
        if isinstance(message, Failed):
            self._fail(message.reason, message.refused)
            return
        self._last_progress = self._clock.now()
        self.stats = message.stats
        if isinstance(message, Ready):
            self._ready.set_result(message)
            return
        assert isinstance(message, Progress)
        for output in message.outputs:
            news = self._queues.get(output.id)
            if output.finish_reason is not None:
                self._queues.pop(output.id, None)
            if news is not None:
                news.put_nowait(output)

    def _fail(self, reason: str, refused: bool = False) -> None:
        if self.failure is not None:
            return
        self.failure, self.refused = reason, refused
        if not self._ready.done():
            self._ready.set_exception(ValueError(reason) if refused else EngineDead(reason))
            # Whoever waits for it sees it; nobody need.
            self._ready.exception()
        for news in set(self._queues.values()):
            news.put_nowait(EngineDead(reason))
        self._queues.clear()
