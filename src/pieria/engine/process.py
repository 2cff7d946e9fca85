"""The engine's loop, in a process of its own or in a thread.

Run as `python -m pieria.engine.process FD BOX FACTORY`: FD is an inherited end of a socket pair,
BOX inherited memory and FACTORY the dotted name `module:function` of what makes the runner. Knows
messages and the engine. Knows neither HTTP nor text, and no device.
"""

import gc
import importlib
import logging
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from pieria import logs
from pieria.clock import RealTime
from pieria.engine.black_box import BlackBox
from pieria.engine.cause import cause
from pieria.engine.commands import Commands
from pieria.engine.engine import Engine, RunnerLost
from pieria.engine.link import BlockingLink, Closed, Malformed
from pieria.engine.messages import (
    Abort,
    Add,
    Command,
    Failed,
    Output,
    Progress,
    Ready,
    Shutdown,
    Start,
    ToEngine,
)
from pieria.engine.orphan import end_with_parent
from pieria.engine.plan import Runner
from pieria.engine.prefix_cache import PrefixCache
from pieria.engine.scheduler import Scheduler, SchedulerConfig

HEARTBEAT_SECONDS = 1.0

Inbox = queue.SimpleQueue[tuple[Any, int]]
"""What came from the front, or why nothing more does; and how many steps had ended by then."""

log = logging.getLogger("pieria.engine.process")


@dataclass(frozen=True)
class Prepared:
    """What a runner factory made: the runner, and what the scheduler must know of it.

    pages of page_tokens tokens, shared by page tables of these windows, and states of requests;
    max_model_len tokens a request, of ids below `vocabulary`; decisions: (what, value, reason).
    check: called while nothing is to be done; RunnerLost if nothing can be.
    ahead: steps of what is better done before it is needed, for when nothing is to be done.
    watch: takes what is to be called within a step, whenever a part of it is done.
    """

    runner: Runner
    pages: int
    page_tokens: int
    max_model_len: int
    vocabulary: int
    decisions: tuple[tuple[str, str, str], ...] = ()
    windows: tuple[int | None, ...] = (None,)
    states: int = 0
    check: Callable[[], None] | None = None
    ahead: Iterable[None] = ()
    watch: Callable[[Callable[[], None]], None] | None = None


Factory = Callable[[dict[str, Any]], Prepared]
"""From the settings of `Start`."""


def run(sock: socket.socket, factory: Factory, box: BlackBox) -> None:
    """Serve one front, which sees the box, until it shuts the engine down or goes away.

    Errors reach the front as `Failed`.
    """
    link = BlockingLink(sock, ToEngine)
    begun = False
    try:
        start = link.receive()
        if not isinstance(start, Start):
            raise ValueError(f"the first message was {type(start).__name__}, not Start")
        if "log_format" in start.settings:
            logs.configure(start.settings["log_format"])
        config = msgspec.convert(start.settings["scheduler"], SchedulerConfig)
        stop_ids = msgspec.convert(start.settings["stop_ids"], frozenset[int])
        prepared = factory(start.settings)
        try:
            cache = PrefixCache(
                prepared.pages,
                prepared.page_tokens,
                config.enable_prefix_caching,
                prepared.windows,
                prepared.states,
            )
            scheduler = Scheduler(config, cache, stop_ids, prepared.max_model_len)
            engine = Engine(scheduler, prepared.runner, box)
            if prepared.watch is not None:
                prepared.watch(box.beat)
            link.send(
                Ready(prepared.max_model_len, prepared.vocabulary, engine.stats, prepared.decisions)
            )
            begun = True
            _loop(engine, link, prepared.check, iter(prepared.ahead))
        finally:
            prepared.runner.close()
    except Closed:
        log.info("the front is gone, the engine ends")
    except Exception as error:
        refused = isinstance(error, ValueError) and not begun
        reason = str(error)
        if not (refused or isinstance(error, RunnerLost)):
            log.exception("the engine ends")
            reason = f"{type(error).__name__}: {error}"
        try:
            link.send(Failed(reason, refused))
            link.finish()
        except Closed:
            log.info("nobody is left to tell")
    finally:
        link.close()


def _loop(
    engine: Engine,
    link: BlockingLink,
    check: Callable[[], None] | None,
    ahead: Iterator[None],
) -> None:
    inbox: Inbox = queue.SimpleQueue()
    commands = Commands(engine)
    clock = RealTime()
    told = clock.now()
    more = True  # to do ahead
    threading.Thread(target=_receive, args=(link, inbox, engine), daemon=True).start()
    while True:
        outputs: list[Output] = []
        messages = _messages(inbox, wait=engine.idle and not more)
        for message, steps in messages:
            if isinstance(message, Shutdown | Closed):
                return
            if isinstance(message, Malformed):
                outputs.append(_refused(message))
            elif isinstance(message, Exception):
                raise message
            elif isinstance(message, Command):
                link.send(commands.run(message))
            elif isinstance(message, Abort):
                engine.abort(message.ids, steps)
            elif isinstance(message, Add):
                outputs += _added(engine, message)
        spare = more and engine.idle and not messages
        if spare:
            more = next(ahead, "nothing") is None
        elif not engine.idle:
            outputs += engine.step()
        elif not messages:
            engine.rest()
            if check is not None:
                check()
        now = clock.now()
        if outputs or (engine.idle and not spare) or now - told >= HEARTBEAT_SECONDS:
            link.send(Progress(tuple(outputs), engine.stats, engine.idle))
            told = now


def _added(engine: Engine, add: Add) -> tuple[Output, ...]:
    """Nothing, or why this request is not served."""
    try:
        engine.add(add)
        return ()
    except ValueError as error:
        reason = str(error)
    except Exception as error:  # ends this request
        log.exception("request %s could not be queued", add.id)
        reason = cause("queueing it", error)
    return (Output(add.id, finish_reason="error", error=reason),)


def _refused(message: Malformed) -> Output:
    """The answer to a request of the wrong form; Malformed if it does not say which it is."""
    told = msgspec.msgpack.decode(message.body)
    if not (isinstance(told, dict) and isinstance(told.get("id"), str)):
        raise message
    log.error("request %s has the wrong form: %s", told["id"], message)
    return Output(told["id"], finish_reason="error", error=f"a field has the wrong form: {message}")


def _messages(inbox: Inbox, wait: bool) -> list[tuple[Any, int]]:
    """All that has arrived; when idle, what arrives first within a heartbeat."""
    messages: list[tuple[Any, int]] = []
    try:
        if wait:
            messages.append(inbox.get(timeout=HEARTBEAT_SECONDS))
        while True:
            messages.append(inbox.get_nowait())
    except queue.Empty:
        return messages


def _receive(link: BlockingLink, inbox: Inbox, engine: Engine) -> None:
    while True:
        try:
            message = link.receive()
        except Malformed as error:  # of one message; the next one is told from it
            message = error
        except Exception as error:  # handed to the loop, which ends on it
            inbox.put((error, engine.steps))
            return
        inbox.put((message, engine.steps))


def main(arguments: list[str]) -> None:
    fd, box, factory = arguments
    # The front decides when the engine ends; Ctrl-C and service managers signal both processes.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    logs.configure()
    if not __debug__:
        log.warning("python runs without assertions, so the engine does not check itself when idle")
    gc.disable()  # what is imported stays, so looking through it for rubbish takes time for nothing
    module, name = factory.split(":")
    sock = socket.socket(fileno=int(fd))
    end_with_parent(sock)
    make = getattr(importlib.import_module(module), name)
    gc.freeze()
    gc.enable()
    run(sock, make, BlackBox.inherited(int(box)))


if __name__ == "__main__":
    main(sys.argv[1:])
