"""The front's view of an engine: an asynchronous handle that outlives its processes. Torch-free.

An engine process that is killed, fails or hangs is replaced, and every request goes on after the
last token that was received of it: draws depend on nothing else, so they are the same tokens.
Requests that were being computed when an engine ended by itself are tried one at a time after that;
one that is alone in a step when the second engine ends is refused.

Knows messages and token ids. Does not know text.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from pieria.clock import Clock
from pieria.engine import child
from pieria.engine.cause import SHORT, EngineDead
from pieria.engine.child import Child, End
from pieria.engine.in_flight import InFlight, News
from pieria.engine.link import AsyncLink, Closed
from pieria.engine.messages import (
    Abort,
    Add,
    Command,
    Failed,
    FromEngine,
    Output,
    Progress,
    Ready,
    Reply,
    Shutdown,
    Start,
    Stats,
)
from pieria.engine.throughput import Throughput

CLOSE_SECONDS = 5.0
"""How long an engine has to end by itself, and then its process or thread."""

COMMAND_SECONDS = 60.0

HANG_SECONDS = 120.0
"""Without a sign of life from a busy engine, after which it is replaced."""

LOADING = 10
"""How many times longer an engine may be silent that loads."""

LOOK_SECONDS = 1.0

MOST_FAILURES = 3
"""Engines in a row that get nowhere, after which no other is started."""

OUTSIDE = 0.25
"""What the requests of a step are suspected if the engine was killed from outside; 1 if it ended by
itself. From 1 on a request is tried alone, from 2 on it is refused."""

log = logging.getLogger(__name__)


class TimedOut(Exception):
    """A request's time was up before it had finished."""


class EngineClient:
    """One engine, alive from `start_process` or `start_thread` until `close` or a failure.

    failure: why there is none any more, None while there is. refused: whether it never began
    because of what it was asked to be. restarts: engines that were replaced.
    """

    def __init__(
        self,
        start: Callable[[], Child],
        settings: dict[str, Any],
        clock: Clock,
        hang_seconds: float = HANG_SECONDS,
        first: Child | None = None,
    ) -> None:
        """start: begins an engine. One that cannot be killed has no other.

        first: begun already; else it is begun now.
        """
        self._start = start
        self._settings = settings
        self._clock = clock
        self._hang_seconds = hang_seconds
        self._child = first or start()
        self._link: AsyncLink | None = None
        self._up = False
        self._closing = asyncio.Event()
        self._ready: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        # By id; by what an engine knows them as; and those that are tried one at a time.
        self._live: dict[str, InFlight] = {}
        self._sent: dict[str, InFlight] = {}
        self._suspects: dict[str, InFlight] = {}
        self._commands = 0
        self._replies: dict[int, asyncio.Future[Reply]] = {}
        self._said: str | None = None
        self._delivered = False
        self._failures = 0
        self._beats = 0
        self._last_progress = clock.now()
        self._past = Stats()
        self._latest = Stats()
        self._throughput = Throughput(clock)
        self.restarts = 0
        self.failure: str | None = None
        self.refused = False
        self._running = asyncio.create_task(self._run())

    @classmethod
    async def start_process(
        cls,
        factory: str,
        settings: dict[str, Any],
        clock: Clock,
        hang_seconds: float = HANG_SECONDS,
        first: Child | None = None,
    ) -> "EngineClient":
        """An engine in a process of its own; `factory` is the dotted name of the runner's.

        first: such a process, started already so that it imports meanwhile.
        """
        return cls(partial(child.start_process, factory), settings, clock, hang_seconds, first)

    @classmethod
    async def start_thread(
        cls, factory: str, settings: dict[str, Any], clock: Clock
    ) -> "EngineClient":
        """An engine in a thread of this process."""
        return cls(partial(child.start_thread, factory), settings, clock)

    @property
    def ready(self) -> bool:
        """Whether requests are computed now, not only kept."""
        return self._up and self.failure is None

    @property
    def in_flight(self) -> int:
        """Requests not finished."""
        return len(self._live)

    @property
    def stats(self) -> Stats:
        """The latest known; counters go on from one engine to the next."""
        return self._past.then(self._latest) if self.restarts else self._latest

    @property
    def tokens_per_second(self) -> float:
        """Generated lately, for all requests together."""
        return self._throughput.per_second

    async def wait_ready(self) -> Ready:
        """When the engine can take requests for the first time.

        ValueError if the settings do not allow it to begin, EngineDead if it failed otherwise.
        """
        return await asyncio.shield(self._ready)

    def progressing(self, within_seconds: float) -> bool:
        """Whether the engine lives and gave a sign of life, idle or at work, within that time."""
        self._feel_pulse()
        return self.ready and self._clock.now() - self._last_progress <= within_seconds

    async def stream(
        self, adds: Sequence[Add], timeout_seconds: float | None = None
    ) -> AsyncGenerator[Output, None]:
        """News of these requests until all are finished; leaving early aborts those that are not.

        EngineDead if no engine is left to finish them, TimedOut after that many seconds, TooSlow if
        what was not read yet becomes too much.
        """
        if self.failure is not None:
            raise EngineDead(self.failure)
        news = News()
        unfinished = {add.id for add in adds}
        timer = None
        if timeout_seconds is not None:
            late = TimedOut(f"it did not finish within {timeout_seconds:g} s")
            timer = asyncio.get_running_loop().call_later(timeout_seconds, news.end, late)
        try:
            for add in adds:
                self._live[add.id] = request = InFlight(add, news)
                if self._up and not self._suspects:
                    self._send(request)
            while unfinished:
                output = await news.get()
                if output.finish_reason is not None:
                    unfinished.discard(output.id)
                yield output
        finally:
            if timer is not None:
                timer.cancel()
            self.abort(unfinished)

    def abort(self, ids: set[str]) -> None:
        """Forget these requests, here at once and in the engine before its next step."""
        known = [request for id in ids if (request := self._live.pop(id, None)) is not None]
        sent = tuple(request.sent_as for request in known if request.sent_as in self._sent)
        for request in known:
            self._forget(request)
        if sent and self._up and self._link is not None:
            self._link.send(Abort(sent))
        self._go_on()

    async def command(self, name: str, path: str = "") -> str:
        """What the engine tells when it has done this. ValueError if it cannot.

        EngineDead if it ends, or has no time for it.
        """
        if not self._up or self._link is None:
            raise EngineDead("no engine is up")
        self._commands += 1
        number = self._commands
        self._replies[number] = asyncio.get_running_loop().create_future()
        try:
            self._link.send(Command(number, name, path))
            reply = await asyncio.wait_for(self._replies[number], COMMAND_SECONDS)
        except asyncio.TimeoutError:
            raise EngineDead(f"the engine did not answer within {COMMAND_SECONDS:g} s") from None
        finally:
            del self._replies[number]
        if reply.error is not None:
            raise ValueError(reply.error)
        told: str = reply.told
        return told

    async def close(self) -> None:
        """End the engine and wait for it; one that is still loading, or stuck, is cut off."""
        self._closing.set()
        if self._up and self._link is not None:
            self._link.send(Shutdown())
            await asyncio.wait([self._running], timeout=CLOSE_SECONDS)
        if self._link is not None:
            self._link.close()
        await self._running

    async def _run(self) -> None:
        """One engine after the other."""
        while True:
            end = await self._follow()
            reason = self._said or end.reason or "the engine was shut down"
            if (
                self.failure is not None
                or self._closing.is_set()
                or self._child.kill is None
                or not self._ready.done()
            ):
                return self._fail(reason)
            self._bury(reason, end)
            if self._failures >= MOST_FAILURES:
                return self._fail(f"{self._failures} engines in a row failed, the last: {reason}")
            if self._failures > 1:
                await asyncio.wait(
                    [asyncio.ensure_future(self._closing.wait())], timeout=2 ** (self._failures - 2)
                )
            if self._closing.is_set():
                return self._fail("the engine was shut down")
            self._child = self._start()

    async def _follow(self) -> End:
        """Take what an engine says until it ends; why."""
        current = self._child
        self._said, self._delivered, self._beats = None, False, 0
        self._link = link = await AsyncLink.open(current.socket, FromEngine)
        link.send(Start(self._settings))
        if self._closing.is_set():
            link.close()
        watching = asyncio.create_task(self._watch(current))
        try:
            while True:
                self._take(await link.receive())
        except Closed:
            pass
        except msgspec.DecodeError as error:
            self._said = f"the engine sent what is no message: {error}"
        finally:
            watching.cancel()
        link.close()
        impatient = self._closing.is_set() and not self._up
        return await asyncio.to_thread(current.ended, 0.0 if impatient else CLOSE_SECONDS)

    async def _watch(self, current: Child) -> None:
        """Cut off an engine that gives no sign of life for too long."""
        if current.kill is None:
            return
        interval = min(LOOK_SECONDS, self._hang_seconds / 4)
        quiet, last = 0.0, self._last_progress
        while True:
            await asyncio.sleep(interval)
            self._feel_pulse()
            # Looks are counted, not seconds: this process may have been stopped itself.
            quiet = quiet + interval if self._last_progress == last else 0.0
            last = self._last_progress
            most = self._hang_seconds * (1 if self._up else LOADING)
            if quiet >= most:
                self._said = f"the engine made no progress for {most:g} s"
                current.kill()
                return

    def _feel_pulse(self) -> None:
        beats = self._child.box.beats
        if beats != self._beats:
            self._beats, self._last_progress = beats, self._clock.now()

    def _bury(self, reason: str, end: End) -> None:
        """Take back all requests, and say which of them are suspected."""
        went_well = self._up and (self._delivered or not self._sent)
        self._up = False
        self.restarts += 1
        self._past = self._past.then(self._latest)
        self._latest = Stats(pages=self._latest.pages)
        self._last_progress = self._clock.now()
        step = self._child.box.step
        computed = [self._sent[id] for id in step if id in self._sent]
        for request in computed:
            request.suspicion += OUTSIDE if end.outside and self._said is None else 1.0
            if request.suspicion >= 1:
                self._suspects[request.add.id] = request
        self._failures = 0 if went_well or computed else self._failures + 1
        for request in self._sent.values():
            request.sent_as = ""
        self._sent.clear()
        log.error(
            "%s; another takes its place, and %d requests go on, %d of which were being computed",
            reason,
            len(self._live),
            len(step),
        )
        if end.memory:
            log.error(SHORT)
        if len(step) == 1 and computed and computed[0].suspicion >= 2:
            self._refuse(computed[0])

    def _refuse(self, request: InFlight) -> None:
        self._live.pop(request.add.id)
        self._suspects.pop(request.add.id)
        log.error("request %s is refused: engines end that compute it", request.add.id)
        error = "the engine ended whenever it computed this request; it is not tried again"
        request.news.put(Output(request.add.id, finish_reason="error", error=error))

    def _send(self, request: InFlight) -> None:
        assert self._link is not None
        leader = self._live.get(request.add.leader or "")
        try:
            self._link.send(request.message(leader.sent_as if leader else None))
        except ValueError as error:  # what no message can hold
            request.sent_as = ""
            request.news.end(error)
        else:
            self._sent[request.sent_as] = request

    def _go_on(self) -> None:
        """Send what waits: one suspect alone, or all when nobody is suspected."""
        if not self._up or (self._suspects and self._sent):
            return
        if self._suspects:
            self._send(min(self._suspects.values(), key=lambda r: r.suspicion))
        elif len(self._sent) < len(self._live):
            for request in self._live.values():
                if not request.sent_as:
                    self._send(request)

    def _forget(self, request: InFlight) -> None:
        self._sent.pop(request.sent_as, None)
        self._suspects.pop(request.add.id, None)

    def _take(self, message: Any) -> None:
        if isinstance(message, Failed):
            self._said = message.reason
            self.refused = message.refused and not self._ready.done()
            return
        if isinstance(message, Reply):
            waiting = self._replies.get(message.number)
            if waiting is not None and not waiting.done():
                waiting.set_result(message)
            return
        self._last_progress = self._clock.now()
        self._latest = message.stats
        self._throughput.add(self._past.generated_tokens + message.stats.generated_tokens)
        if isinstance(message, Ready):
            if not self._ready.done():
                self._ready.set_result(message)
            self._up = True
            self._go_on()
            return
        assert isinstance(message, Progress)
        for output in message.outputs:
            request = self._sent.get(output.id)
            if request is not None:
                self._deliver(request, output)

    def _deliver(self, request: InFlight, output: Output) -> None:
        self._delivered = True
        request.received(output)
        if output.id != request.add.id:
            output = msgspec.structs.replace(output, id=request.add.id)
        finished = output.finish_reason is not None
        if finished:
            del self._live[request.add.id]
            self._forget(request)
        if request.suspicion and output.tokens:
            request.suspicion = 0.0
            if self._suspects.pop(request.add.id, None) is not None and not finished:
                # The next one is to be alone; this one goes on when all were tried.
                del self._sent[request.sent_as]
                assert self._link is not None
                self._link.send(Abort((request.sent_as,)))
                request.sent_as = ""
        request.news.put(output)
        if not self._sent:
            self._go_on()

    def _fail(self, reason: str) -> None:
        if self.failure is not None:
            return
        self.failure, self._up = reason, False
        if not self._ready.done():
            self._ready.set_exception(ValueError(reason) if self.refused else EngineDead(reason))
            # Whoever waits for it sees it; nobody need.
            self._ready.exception()
        for news in {id(r.news): r.news for r in self._live.values()}.values():
            news.end(EngineDead(reason))
        self._live.clear()
        self._sent.clear()
        self._suspects.clear()
