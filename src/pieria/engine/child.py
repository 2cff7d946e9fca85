"""An engine in a process of its own, or in a thread: started, told from others' ends, cut off.

Knows processes and why they end. Knows no messages and no requests. Torch-free.
"""

import contextlib
import importlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pieria.engine.black_box import BlackBox

OOM_COUNTERS = (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events"))
"""Where Linux says how many processes it has killed for want of memory."""


@dataclass(frozen=True)
class End:
    """Why an engine ended. reason: None if nothing went wrong.

    outside: it was killed by somebody, not by what it did. memory: by the system, which was short
    of memory.
    """

    reason: str | None = None
    outside: bool = False
    memory: bool = False


@dataclass(frozen=True)
class Child:
    """A started engine. socket: our end. box: what it writes there.

    ended: waits that many seconds for the engine to end, then cuts it off. kill: at once; None for
    one that cannot be.
    """

    socket: socket.socket
    box: BlackBox
    ended: Callable[[float], End]
    kill: Callable[[], None] | None = None


def start_thread(factory: str) -> Child:
    """An engine in a thread of this process; `factory` is the dotted name of its runner's."""
    from pieria.engine import process

    module, name = factory.split(":")
    make = getattr(importlib.import_module(module), name)
    ours, theirs = socket.socketpair()
    box = BlackBox.within_process()
    thread = threading.Thread(target=process.run, args=(theirs, make, box), daemon=True)
    thread.start()

    def ended(patience_seconds: float) -> End:
        thread.join(patience_seconds)
        return End()

    return Child(ours, box, ended)


def start_process(factory: str) -> Child:
    """An engine in a process; other processes that it starts end with it."""
    ours, theirs = socket.socketpair()
    box, memory = BlackBox.shared()
    module = "pieria.engine.process"
    command = [sys.executable, "-m", module, str(theirs.fileno()), str(memory), factory]
    starved = oom_kills()
    process = subprocess.Popen(
        command,
        pass_fds=[theirs.fileno(), memory],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    theirs.close()
    os.close(memory)
    cut_off = threading.Event()

    def kill() -> None:
        cut_off.set()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def ended(patience_seconds: float) -> End:
        try:
            process.wait(patience_seconds)
        except subprocess.TimeoutExpired:
            kill()
        code = process.wait()
        kill_rest(process.pid)
        if code == 0:
            return End()
        reason = f"the engine process ended with exit code {code}"
        if code != -signal.SIGKILL or cut_off.is_set():
            return End(reason)
        now = oom_kills()
        if now is None or now != starved:
            return End(
                f"{reason}: the system killed it, most likely for want of memory", memory=True
            )
        return End(reason, outside=True)

    return Child(ours, box, ended, kill)


def kill_rest(group: int) -> None:
    """What an engine started and left behind."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def oom_kills() -> int | None:
    """How many processes the system has killed for want of memory; None if it does not say."""
    found = [_counted(path) for path in OOM_COUNTERS]
    known = [count for count in found if count is not None]
    return sum(known) if known else None


def _counted(path: Path) -> int | None:
    try:
        for line in path.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    except OSError:
        return None
    return None
