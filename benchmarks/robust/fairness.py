"""Two keys, one of which floods the server: how long the other waits for its first token.

    python -m benchmarks.robust.fairness

The other's requests come one at a time, first alone and then beside the flood. What they may wait
then: the step that is being computed when they come, and their own work at their share of the
engine, which is half of it, so that it takes twice as long as alone. Exits with 1 if the median is
longer.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from pieria.bench.process import Server, end_when_told, free_port
from pieria.clock import Clock, RealTime
from pieria.models.pull import pull

SHARE = 0.5
"""Of two keys of one weight."""

LIMIT_SECONDS = 300.0


@dataclass(frozen=True)
class Waits:
    """Medians of seconds to the first token, and the mean length of a step beside the flood."""

    alone: float
    beside: float
    step: float

    @property
    def allowed(self) -> float:
        return self.step + self.alone / SHARE

    @property
    def wrong(self) -> bool:
        return self.beside > self.allowed


class Caller:
    """One key's requests."""

    def __init__(self, port: int, key: str, clock: Clock) -> None:
        self._port = port
        self._clock = clock
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def first_token(self, prompt: str, max_tokens: int) -> float:
        """Seconds to the first event of a stream, which is read to its end. OSError if refused."""
        body = {"model": "m", "prompt": prompt, "max_tokens": max_tokens, "stream": True}
        connection = HTTPConnection("127.0.0.1", self._port, timeout=LIMIT_SECONDS)
        began = self._clock.now()
        try:
            text = json.dumps({**body, "ignore_eos": True})
            connection.request("POST", "/v1/completions", text, self._headers)
            answer = connection.getresponse()
            if answer.status != 200:
                raise ConnectionError(f"status {answer.status}: {answer.read()[:200]!r}")
            answer.readline()
            first = self._clock.now() - began
            answer.read()
        except HTTPException as error:
            raise ConnectionError(str(error)) from error
        finally:
            connection.close()
        return first

    def steps(self) -> float:
        """That the engine has computed."""
        connection = HTTPConnection("127.0.0.1", self._port, timeout=LIMIT_SECONDS)
        connection.request("GET", "/metrics", headers=self._headers)
        lines = connection.getresponse().read().decode().splitlines()
        connection.close()
        [line] = [line for line in lines if line.startswith("pieria:engine_steps_total")]
        return float(line.split()[-1])


def words(count: int, number: int) -> str:
    """A prompt that has no beginning in common with others."""
    return " ".join(f"{number * 7919 + i}" for i in range(count))


def measure(port: int, keys: tuple[str, str, str], options: argparse.Namespace) -> Waits:
    """keys: who floods, who does not, and who may read metrics."""
    clock = RealTime()
    flood, other, watcher = (Caller(port, key, clock) for key in keys)

    def median(first: int) -> float:
        found = []
        for number in range(first, first + options.requests):
            found.append(other.first_token(words(options.words, number), 4))
            clock.sleep(options.pause)
        return statistics.median(found)

    other.first_token("a", 4)
    alone = median(0)
    over = threading.Event()
    dry: list[str] = []

    def ask(number: int) -> None:
        try:
            while not over.is_set():
                number += options.flood
                flood.first_token(words(options.words, number), options.max_tokens)
        except OSError as error:
            dry.append(str(error))

    threads = [threading.Thread(target=ask, args=(1000 + i,)) for i in range(options.flood)]
    for thread in threads:
        thread.start()
    try:
        clock.sleep(options.settle)
        steps, began = watcher.steps(), clock.now()
        beside = median(options.requests)
        step = (clock.now() - began) / max(1.0, watcher.steps() - steps)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    if dry:
        raise RuntimeError(f"{len(dry)} of {options.flood} streams of the flood ended: {dry[0]}")
    return Waits(alone, beside, step)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--requests", type=int, default=30, help="measured alone and beside")
    parser.add_argument("--flood", type=int, default=64, help="streams of the key that floods")
    parser.add_argument("--words", type=int, default=40, help="of a prompt")
    parser.add_argument("--max-tokens", type=int, default=64, help="of an answer to the flood")
    parser.add_argument("--pause", type=float, default=0.2, help="seconds between requests")
    parser.add_argument("--settle", type=float, default=5.0, help="seconds of flood before that")
    options = parser.parse_args()
    end_when_told()
    clock, port = RealTime(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "keys.json")

        def key(name: str, scope: str) -> str:
            command = [sys.executable, "-m", "pieria.cli", "keys", "add", name]
            command += ["--scope", scope, "--api-key-file", path]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            return done.stdout.split()[-1]

        keys = (key("flood", "inference"), key("other", "inference"), key("watcher", "metrics"))
        command = [sys.executable, "-m", "pieria.cli", "serve", str(pull(options.model))]
        command += ["--port", str(port), "--served-model-name", "m", "--api-key-file", path]
        command += ["--kv-cache-memory-bytes", "512MiB", "--log-level", "error"]
        with Server(command, port, clock) as server:
            server.wait("/ready", LIMIT_SECONDS)
            waits = measure(port, keys, options)
    print(
        f"time to the first token, median of {options.requests}: alone {waits.alone * 1000:.0f} ms,"
        f" beside {options.flood} streams of another key {waits.beside * 1000:.0f} ms;"
        f" allowed: a step of {waits.step * 1000:.0f} ms and twice as long as alone,"
        f" {waits.allowed * 1000:.0f} ms"
    )
    return 1 if waits.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
