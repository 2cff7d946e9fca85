"""The engine's loop, in a process of its own or in a thread.

Run as `python -m pieria.engine.process FD FACTORY`: FD is an inherited end of a socket pair and
FACTORY the dotted name `module:function` of what makes the runner. Knows messages and the engine.
Knows neither HTTP nor text, and no device.
"""

import gc
import importlib
import logging
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from pieria import logs
from pieria.engine.engine import Engine, RunnerLost
from pieria.engine.link import BlockingLink, Closed
from pieria.engine.messages import (
    Abort,
    Add,
    Failed,
    Output,
    Progress,
    Ready,
    Shutdown,
    Start,
    ToEngine,
)
from pieria.engine.plan import Runner
from pieria.engine.prefix_cache import PrefixCache
from pieria.engine.scheduler import Scheduler, SchedulerConfig

HEARTBEAT_SECONDS = 1.0

log = logging.getLogger("pieria.engine.process")


@dataclass(frozen=True)
class Prepared:
    """What a runner factory made: the runner, and what the scheduler must know of it.

    pages of page_tokens tokens, shared by page tables of these windows, and states of requests;
    max_model_len tokens a request, of ids below `vocabulary`; stop_ids end a text; decisions:
    (what, value, reason). check: called while nothing is to be done; RunnerLost if nothing can be.
    """

    runner: Runner
    pages: int
    page_tokens: int
    max_model_len: int
    vocabulary: int
    stop_ids: frozenset[int]
    decisions: tuple[tuple[str, str, str], ...] = ()
    windows: tuple[int | None, ...] = (None,)
    states: int = 0
    check: Callable[[], None] | None = None


Factory = Callable[[dict[str, Any]], Prepared]
"""From the settings of `Start`: `runner`, its own, and `scheduler`."""


def run(sock: socket.socket, factory: Factory) -> None:
    """Serve one front until it shuts the engine down or goes away.

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
        prepared = factory(start.settings)
        try:
            cache = PrefixCache(
                prepared.pages,
                prepared.page_tokens,
                config.enable_prefix_caching,
                prepared.windows,
                prepared.states,
            )
            scheduler = Scheduler(config, cache, prepared.stop_ids, prepared.max_model_len)
            engine = Engine(scheduler, prepared.runner)
            link.send(
                Ready(prepared.max_model_len, prepared.vocabulary, engine.stats, prepared.decisions)
            )
            begun = True
            _loop(engine, link, prepared.check)
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


def _loop(engine: Engine, link: BlockingLink, check: Callable[[], None] | None) -> None:
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(link, inbox), daemon=True).start()
    while True:
        outputs: list[Output] = []
        for message in _messages(inbox, wait=engine.idle):
            if isinstance(message, Shutdown | Closed):
                return
            if isinstance(message, Exception):
                raise message
            if isinstance(message, Abort):
                engine.abort(message.ids)
            elif isinstance(message, Add):
                try:
                    engine.add(message)
                except ValueError as error:
                    outputs.append(Output(message.id, finish_reason="error", error=str(error)))
        if not engine.idle:
            outputs += engine.step()
        elif check is not None:
            check()
        link.send(Progress(tuple(outputs), engine.stats, engine.idle))


def _messages(inbox: "queue.SimpleQueue[Any]", wait: bool) -> list[Any]:
    """All that has arrived; when idle, what arrives first within a heartbeat."""
    messages: list[Any] = []
    try:
        if wait:
            messages.append(inbox.get(timeout=HEARTBEAT_SECONDS))
        while True:
            messages.append(inbox.get_nowait())
    except queue.Empty:
        return messages


def _receive(link: BlockingLink, inbox: "queue.SimpleQueue[Any]") -> None:
    while True:
        try:
            inbox.put(link.receive())
        except Exception as error:  # handed to the loop, which ends on it
            inbox.put(error)
            return


def main(arguments: list[str]) -> None:
    fd, factory = arguments
    # The front decides when the engine ends; Ctrl-C and service managers signal both processes.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    logs.configure()
    gc.disable()  # what is imported stays, so looking through it for rubbish takes time for nothing
    module, name = factory.split(":")
    sock = socket.socket(fileno=int(fd))
    make = getattr(importlib.import_module(module), name)
    gc.freeze()
    gc.enable()
    run(sock, make)


if __name__ == "__main__":
    main(sys.argv[1:])
