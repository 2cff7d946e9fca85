"""A server in processes of its own: started, waited for, its memory watched, and ended.

Knows processes and plain HTTP; any server will do. Loopback only.
"""

import signal
import subprocess
import sys
import threading
from collections.abc import Collection, Mapping, Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from socket import create_server
from typing import IO

import psutil

from pieria.clock import Clock

LOOK_SECONDS = 0.2
"""Between two looks at the memory."""
END_SECONDS = 30.0
"""How long a server may take to end when asked to, before it is made to."""


class Server:
    """Runs `command` until the `with` block ends; nothing of it is left then.

    port: where it is going to listen on 127.0.0.1. log: takes what it prints; None: nowhere.
    watched: keep the peak of its memory, which takes processor time from it.
    began: when it was started, by the clock.
    """

    def __init__(
        self,
        command: Sequence[str],
        port: int,
        clock: Clock,
        *,
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
        watched: bool = False,
    ) -> None:
        self.port = port
        self._clock = clock
        self._log: IO[bytes] | None = None if log is None else log.open("wb")
        self.began = clock.now()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if self._log is None else self._log,
            stderr=None if self._log is None else subprocess.STDOUT,
            env=None if environment is None else dict(environment),
        )
        self._memory = _Peak(psutil.Process(self._process.pid)) if watched else None

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *exception: object) -> None:
        children = self.processes()[1:]
        if self._memory is not None:
            self._memory.stop()
        self._process.terminate()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for child in children:
            if child.is_running():
                child.kill()
        psutil.wait_procs(children)
        if self._log is not None:
            self._log.close()

    def processes(self) -> list[psutil.Process]:
        """The server's own and its children; empty if it has ended."""
        try:
            own = psutil.Process(self._process.pid)
            return [own, *own.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def peak_bytes(self) -> int:
        """The largest sum of PSS of its processes so far; the same page in two counts once."""
        assert self._memory is not None, "it is not watched"
        return self._memory.bytes

    def request(
        self, path: str, body: bytes | None = None, seconds: float = 600
    ) -> tuple[int, str]:
        """Status and text of the answer: to a POST if there is a body. OSError if it has none."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("GET" if body is None else "POST", path, body, headers)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except HTTPException as error:
            raise ConnectionError(f"{path}: {type(error).__name__}: {error}") from error
        finally:
            connection.close()

    def wait(self, path: str, seconds: float, statuses: Collection[int] | None = (200,)) -> float:
        """Until `path` is answered with one of these, or with any; how long after the start.

        RuntimeError if the server ends, or the time does.
        """
        deadline = self._clock.now() + seconds
        while self._clock.now() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"the server ended with exit code {self._process.returncode}")
            try:
                status, _ = self.request(path)
            except OSError:
                status = None
            if status is not None and (statuses is None or status in statuses):
                return self._clock.now() - self.began
            self._clock.sleep(0.02)
        raise RuntimeError(f"{path} was not answered as hoped within {seconds:g} s")


def end_when_told() -> None:
    """Let SIGTERM end this program as an error does, so that servers end with it.

    Only the main thread can say so; called in another one, it changes nothing.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def free_port() -> int:
    """One that nobody listens on just now."""
    with create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


class _Peak:
    """Watches the memory of a process and its children from a thread."""

    def __init__(self, process: psutil.Process) -> None:
        self.bytes = 0
        self._process = process
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(LOOK_SECONDS):
            total = 0
            try:
                for process in [self._process, *self._process.children(recursive=True)]:
                    total += process.memory_full_info().pss
            except psutil.NoSuchProcess:
                continue  # one ended while it was looked at; the next look counts
            self.bytes = max(self.bytes, total)
