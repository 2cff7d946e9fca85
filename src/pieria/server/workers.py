"""Threads for templates and tokenizers, so that the event loop waits for none of them.

A thread cannot be killed. What is not done in time goes on without anybody who waits for it; when
too much of that goes on, nothing new is begun. Knows threads and time. Does not know what they do.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

AT_ONCE = 4
"""Works that somebody waits for, in threads; others wait for their turn."""

MOST_OVERDUE = 4
"""Works that go on although their time was up, from which on nothing is begun."""


class Crowded(Exception):
    """Too many works go on that are overdue."""


class Workers:
    """Belongs to one event loop."""

    def __init__(self) -> None:
        # Those that are in time when the last one is begun may become overdue, too.
        threads = AT_ONCE + MOST_OVERDUE
        self._threads = ThreadPoolExecutor(threads, "prepare")
        # All begin now, as each waits for the others: a process whose threads grow leaks them.
        met = threading.Barrier(threads)
        for _ in range(threads):
            self._threads.submit(met.wait)
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._late: set[Future[Any]] = set()
        self._watched: set[asyncio.Task[Any]] = set()

    @property
    def overdue(self) -> int:
        """Works that go on although their time was up."""
        self._late = {work for work in self._late if not work.done()}
        return len(self._late)

    async def run(self, work: Callable[[], T], seconds: float) -> T:
        """What `work` returns or raises.

        asyncio.TimeoutError if its turn and itself take longer than so many seconds, Crowded if it
        is not begun because of others.
        """
        # Who gives up waiting does not make room: its thread has it for as long as it may.
        task = asyncio.ensure_future(self._run(work, asyncio.get_running_loop().time() + seconds))
        self._watched.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: "asyncio.Task[Any]") -> None:
        self._watched.discard(task)
        if not task.cancelled():
            task.exception()  # whoever still waits has it, and nobody else need

    async def _run(self, work: Callable[[], T], deadline: float) -> T:
        now = asyncio.get_running_loop().time
        await asyncio.wait_for(self._turns.acquire(), deadline - now())
        try:
            if self.overdue >= MOST_OVERDUE:
                raise Crowded(f"{self.overdue} works are overdue")
            doing = self._threads.submit(work)
            try:
                return await asyncio.wait_for(asyncio.wrap_future(doing), deadline - now())
            finally:
                if not doing.cancel() and not doing.done():
                    self._late.add(doing)
        finally:
            self._turns.release()
