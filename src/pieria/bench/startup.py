"""From the start of a server to its first answer, and the memory it takes under many streams.

Starts `pieria serve` as a user would, talks HTTP to it, and reads the processes' memory. Knows
nothing of how the server does it. Loopback only.
"""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from pieria.bench.process import Server, free_port
from pieria.clock import Clock
from pieria.config import format_size
from pieria.models.checkpoint import open_checkpoint
from pieria.models.loader import build
from pieria.models.pull import pull
from pieria.parallel.mesh import Mesh

QUESTION = "Name the capital of France."
CACHE_BYTES = 256 << 20
ALLOWANCE_BYTES = 1 << 30
START_LIMIT_SECONDS = 300.0
STREAM_TOKENS = 64
IMPORTS = ("pieria.cli, pieria.server.serve", "pieria.engine.ranks")
"""What the HTTP process and the engine's process import before they do anything."""


@dataclass(frozen=True)
class Report:
    """phases: (what, seconds since the start). imports: (modules, seconds in a fresh interpreter).

    answer: to `QUESTION`. lost: of `streams`, those that ended early or with an error.
    weight_bytes: as loaded. peak_bytes: the largest PSS of all processes together.
    """

    phases: tuple[tuple[str, float], ...]
    imports: tuple[tuple[str, float], ...]
    answer: str
    streams: int
    lost: int
    weight_bytes: int
    peak_bytes: int

    @property
    def allowed_bytes(self) -> int:
        return self.weight_bytes + CACHE_BYTES + ALLOWANCE_BYTES

    def __str__(self) -> str:
        lines = [f"{seconds:7.2f} s  {what}" for what, seconds in self.phases]
        lines += [f"{seconds:7.2f} s  of which importing {what}" for what, seconds in self.imports]
        lines += [
            f"answer: {self.answer!r}",
            f"{self.streams} streams of {STREAM_TOKENS} tokens, {self.lost} lost",
            f"peak memory (PSS of all processes): {format_size(self.peak_bytes)}; allowed:"
            f" {format_size(self.weight_bytes)} of weights + {format_size(CACHE_BYTES)} of cache"
            f" + {format_size(ALLOWANCE_BYTES)} = {format_size(self.allowed_bytes)}",
        ]
        return "\n".join(lines)


def run(model: str, dtype: str, streams: int, clock: Clock) -> Report:
    """Start a server for `model`, ask it a question, open `streams` streams at once, and end it."""
    path = str(pull(model))
    weights = build(open_checkpoint(Path(path)), Mesh(), getattr(torch, dtype)).parameters()
    weight_bytes = sum(w.numel() * w.element_size() for w in weights)
    imports = tuple((what, _import_seconds(what, clock)) for what in IMPORTS)
    port = free_port()
    serve = [sys.executable, "-m", "pieria.cli", "serve", path, "--served-model-name", "m"]
    options = ["--port", port, "--dtype", dtype, "--kv-cache-memory-bytes", CACHE_BYTES]
    command = [*serve, *map(str, options), "--log-level", "error"]
    with Server(command, port, clock, watched=True) as server:
        phases = [
            ("listening", server.wait("/health", START_LIMIT_SECONDS, statuses=None)),
            ("ready", server.wait("/ready", START_LIMIT_SECONDS)),
        ]
        _ask(server, max_tokens=1)
        phases.append(("first token", clock.now() - server.began))
        answer = _ask(server)
        phases.append(("first answer after it", clock.now() - server.began))
        with ThreadPoolExecutor(streams) as pool:
            finished = sum(pool.map(lambda i: _stream(server, i), range(streams)))
        peak = server.peak_bytes()
    return Report(tuple(phases), imports, answer, streams, streams - finished, weight_bytes, peak)


def _ask(server: Server, **options: object) -> str:
    message = {"role": "user", "content": QUESTION}
    body = {"model": "m", "messages": [message], "temperature": 0, **options}
    status, text = server.request("/v1/chat/completions", json.dumps(body).encode())
    if status != 200:
        raise RuntimeError(f"the question was answered with status {status}: {text}")
    return str(json.loads(text)["choices"][0]["message"]["content"])


def _stream(server: Server, number: int) -> bool:
    """Whether a stream came to its proper end with all of its tokens."""
    body: dict[str, object] = {
        "model": "m",
        "prompt": f"Story number {number}:",
        "max_tokens": STREAM_TOKENS,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    status, text = server.request("/v1/completions", json.dumps(body).encode())
    events = [line.removeprefix("data: ") for line in text.splitlines() if line]
    if status != 200 or len(events) < 2 or events[-1] != "[DONE]":
        return False
    usage = json.loads(events[-2]).get("usage")
    return usage is not None and usage["completion_tokens"] == STREAM_TOKENS


def _import_seconds(modules: str, clock: Clock) -> float:
    begin = clock.now()
    subprocess.run([sys.executable, "-c", f"import {modules}"], check=True)
    return clock.now() - begin
