"""Kills the engine of a server, again and again, at random moments under many streams.

    python -m benchmarks.robust.kills --kills 200

Every answer is compared with the one that an undisturbed server gave. How long it takes until the
server is ready again is compared with a start of the server. Exits with 1 if anything was lost, or
ready more than `SLACK_SECONDS` later than a start.
"""

import argparse
import contextlib
import itertools
import random
import statistics
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from benchmarks.robust.streams import Verdict, request, tokens
from pieria.bench.process import Server, end_when_told, free_port
from pieria.clock import Clock, RealTime
from pieria.models.pull import pull

SLACK_SECONDS = 2.0
STARTS = 3
PROGRESS = 10
LIMIT_SECONDS = 300.0
ENGINE = "pieria.engine.process"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument(
        "--longest-pause", type=float, default=2.0, help="between kills, in times of a start"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, default=Path("kills.log"))
    options = parser.parse_args()
    end_when_told()
    clock = RealTime()
    path = str(pull(options.model))

    def serve() -> Server:
        port = free_port()
        command = [sys.executable, "-m", "pieria.cli", "serve", path, "--port", str(port)]
        command += ["--served-model-name", "m", "--dtype", options.dtype]
        command += ["--kv-cache-memory-bytes", "256MiB"]
        return Server(command, port, clock, log=options.log)

    starts = []
    for _ in range(STARTS):
        with serve() as server:
            starts.append(server.wait("/ready", LIMIT_SECONDS))
    start = statistics.median(starts)
    print(f"a warm start takes {start:.2f} s (of {', '.join(f'{s:.2f}' for s in starts)})")

    chance = random.Random(options.seed)
    numbers = range(2 * options.streams)
    with serve() as server, ThreadPoolExecutor(options.streams) as pool:
        server.wait("/ready", LIMIT_SECONDS)
        answers = pool.map(lambda n: tokens(server, request(n, options.max_tokens)), numbers)
        wanted = dict(zip(numbers, answers, strict=True))
        bad = [answer for answer in wanted.values() if isinstance(answer, str)]
        if bad:
            raise RuntimeError(f"an undisturbed answer failed: {bad[0]}")
        verdict, over = Verdict(), threading.Event()

        def ask(stream: int) -> None:
            for turn in itertools.count():
                if over.is_set():
                    return
                number = numbers[(stream + turn * 7) % len(numbers)]
                reference = wanted[number]
                assert not isinstance(reference, str)
                verdict.take(number, tokens(server, request(number, options.max_tokens)), reference)

        asking = [pool.submit(ask, stream) for stream in range(options.streams)]
        back = []
        killed = -1
        try:
            for kill in range(1, options.kills + 1):
                # Also while the next engine loads, and while it computes prompts again.
                clock.sleep(chance.uniform(0, options.longest_pause) * start)
                engine = _engine(server, killed, clock)
                began = clock.now()
                engine.kill()
                killed = engine.pid
                if kill % 2 == 0:
                    _engine(server, killed, clock)
                    server.wait("/ready", LIMIT_SECONDS)
                    back.append(clock.now() - began)
                if kill % PROGRESS == 0:
                    print(f"{kill} kills; {str(verdict).splitlines()[0]}", flush=True)
            server.wait("/ready", LIMIT_SECONDS)
        finally:
            over.set()
        for future in asking:
            future.result()
    print(verdict)
    slow = [seconds for seconds in back if seconds > start + SLACK_SECONDS]
    print(
        f"ready again after {statistics.median(back):.2f} s (at most {max(back):.2f}), a start"
        f" takes {start:.2f} s; {len(slow)} of {len(back)} took {SLACK_SECONDS:g} s more than that"
    )
    return 1 if verdict.wrong or slow else 0


def _engine(server: Server, before: int, clock: Clock) -> psutil.Process:
    """The engine's process, once it is another one than that."""
    deadline = clock.now() + LIMIT_SECONDS
    while clock.now() < deadline:
        for process in server.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.pid != before and ENGINE in " ".join(process.cmdline()):
                    return process
        clock.sleep(0.01)
    raise RuntimeError(f"there was no other engine within {LIMIT_SECONDS:g} s")


if __name__ == "__main__":
    sys.exit(main())
