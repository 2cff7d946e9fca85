"""Hours of load on a server of a tiny model, with clients that leave and requests that are wrong.

    python -m benchmarks.robust.soak --minutes 60

First the rate that the server reaches is measured, then it is loaded to 80 % of it: for a time with
good requests only, then with all. Once a minute there is a pause in which memory, descriptors and
threads of its processes are read. Exits with 1 if, after the warm-up, the upper 95 % bound of the
memory's slope is 8 MiB an hour or more, if descriptors or threads grew, if the slowest hundredth of
the answers drifts more than twice as far as it did without the others, or if an answer was wrong.

Memory is the proportional set size (PSS) without pages of files: what a process' part of torch's
libraries counts depends on how many others on the machine have them mapped.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.robust.slope import Slope, slope
from pieria.bench.process import Server, end_when_told, free_port
from pieria.clock import Clock, RealTime

LOAD = 0.8
MOST_SLOPE = 8 << 20
"""Bytes an hour."""
PAUSE_SECONDS = 3.0
ROUND_SECONDS = 60.0
CAPACITY_SECONDS = 20.0
CALLERS = 32
WARM_UP = 1 / 6
"""The part of the time that is not counted: ten minutes of an hour."""

LEAST_MINUTES = 5
"""Of which three pauses and more count."""

BAD: tuple[tuple[bytes, int], ...] = (
    (b"{", 400),
    (b'{"model": "m"}', 400),
    (b'{"model": "other", "prompt": "x"}', 404),
    (b'{"model": "m", "prompt": "x", "max_tokens": -1}', 400),
    (b'{"model": "m", "prompt": "x", "temperature": 1e9}', 400),
    (b'{"model": "m", "prompt": [99999999]}', 400),
    (b'{"model": "m", "prompt": "' + b"x " * 5000 + b'"}', 400),
    (b'{"model": "m", "prompt": "\\u0000", "logit_bias": {"7": 1000}}', 400),
)


@dataclass
class Sample:
    """What a pause showed.

    seconds: since the phase began. memory_bytes: PSS without pages of files.
    """

    seconds: float
    memory_bytes: int
    descriptors: int
    threads: int
    slowest_seconds: float


@dataclass
class Phase:
    """One kind of load. wrong: answers that were not as they had to be."""

    samples: list[Sample] = field(default_factory=list)
    requests: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    @property
    def shown(self) -> dict[str, Any]:
        """For JSON; `asdict` makes counters of pairs."""
        samples = [asdict(sample) for sample in self.samples]
        return {"samples": samples, "requests": dict(self.requests), "wrong": self.wrong}

    def settled(self) -> list[Sample]:
        """Those after the warm-up."""
        end = self.samples[-1].seconds
        return [sample for sample in self.samples if sample.seconds >= WARM_UP * end]

    def slope_of(self, name: str) -> Slope:
        kept = self.settled()
        return slope([s.seconds / 3600 for s in kept], [float(getattr(s, name)) for s in kept])


class Load:
    """Requests to one server."""

    def __init__(self, server: Server, clock: Clock, chance: random.Random) -> None:
        self.server = server
        self.clock = clock
        self.chance = chance
        limits = httpx.Limits(max_connections=CALLERS, max_keepalive_connections=CALLERS)
        url = f"http://127.0.0.1:{server.port}"
        self.http = httpx.AsyncClient(base_url=url, limits=limits, timeout=60)
        self.headers = {"content-type": "application/json"}

    def body(self) -> dict[str, Any]:
        words = " ".join(
            str(self.chance.randrange(50)) for _ in range(self.chance.randrange(1, 20))
        )
        return {
            "model": "m",
            "prompt": words,
            "max_tokens": self.chance.randrange(1, 40),
            "ignore_eos": True,
            "seed": self.chance.randrange(1000),
            "stream": self.chance.random() < 0.5,
        }

    async def good(self, phase: Phase) -> float:
        """How long it took."""
        began = self.clock.now()
        answer = await self.http.post("/v1/completions", json=self.body())
        if answer.status_code != 200 or "error" in answer.text:
            phase.wrong.append(f"good: {answer.status_code} {answer.text[:200]}")
        return self.clock.now() - began

    async def bad(self, phase: Phase) -> None:
        content, status = self.chance.choice(BAD)
        answer = await self.http.post("/v1/completions", content=content, headers=self.headers)
        if answer.status_code != status:
            phase.wrong.append(f"bad: {answer.status_code} for {content[:60]!r}")

    async def leave(self) -> None:
        body = {**self.body(), "stream": True, "max_tokens": 200}
        async with self.http.stream("POST", "/v1/completions", json=body) as answer:
            events = self.chance.randrange(0, 10)
            async for _ in answer.aiter_lines():
                events -= 1
                if events < 0:
                    return

    async def capacity(self) -> float:
        """Good requests per second when each caller asks again at once."""
        done, phase = 0, Phase()
        end = self.clock.now() + CAPACITY_SECONDS

        async def caller() -> None:
            nonlocal done
            while self.clock.now() < end:
                await self.good(phase)
                done += 1

        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        return done / CAPACITY_SECONDS

    async def run(self, seconds: float, rate: float, rude: bool) -> Phase:
        """A phase of so long at so many requests per second; rude: with the two other kinds."""
        phase, began = Phase(), self.clock.now()
        while (now := self.clock.now() - began) < seconds:
            took: list[float] = []
            tasks: set[asyncio.Task[None]] = set()
            until = began + min(seconds, now + ROUND_SECONDS)
            following = self.clock.now()
            while following < until:
                await asyncio.sleep(max(0.0, following - self.clock.now()))
                tasks.add(asyncio.create_task(self._one(phase, took, rude)))
                tasks = {task for task in tasks if not task.done()}
                following += self.chance.expovariate(rate)
            await asyncio.gather(*tasks)
            await asyncio.sleep(PAUSE_SECONDS)
            phase.samples.append(self._sample(self.clock.now() - began, took))
        return phase

    async def _one(self, phase: Phase, took: list[float], rude: bool) -> None:
        kind = self.chance.choices(("good", "leave", "bad"), (0.7, 0.15, 0.15))[0]
        kind = kind if rude else "good"
        phase.requests[kind] += 1
        if kind == "good":
            took.append(await self.good(phase))
        elif kind == "bad":
            await self.bad(phase)
        else:
            await self.leave()

    def _sample(self, seconds: float, took: Sequence[float]) -> Sample:
        processes = self.server.processes()
        slowest = statistics.quantiles(took, n=100)[-1] if len(took) > 1 else 0.0
        return Sample(
            seconds,
            sum(_memory_bytes(p.pid) for p in processes),
            sum(p.num_fds() for p in processes),
            sum(p.num_threads() for p in processes),
            slowest,
        )


def _memory_bytes(process: int) -> int:
    """Anonymous and shared memory by /proc/PID/smaps_rollup (proc(5)), proportionally."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return (kib["Pss_Anon"] + kib["Pss_Shmem"] + kib["SwapPss"]) << 10


def judge(control: Phase, rude: Phase) -> list[str]:
    """What is not as it must be."""
    found = [f"wrong answers: {phase.wrong[:5]}" for phase in (control, rude) if phase.wrong]
    memory = rude.slope_of("memory_bytes")
    if memory.upper >= MOST_SLOPE:
        found.append(f"memory grows by up to {memory.upper / 2**20:.1f} MiB an hour")
    for name in ("descriptors", "threads"):
        # One connection more or less is open at a pause by chance; a leak moves the middle.
        counts = [getattr(sample, name) for sample in rude.settled()]
        third = max(1, len(counts) // 3)
        first, last = statistics.median(counts[:third]), statistics.median(counts[-third:])
        if last > first:
            found.append(f"{name}: {first:g}, later {last:g}")
    drift, usual = (abs(p.slope_of("slowest_seconds").value) for p in (rude, control))
    error = control.slope_of("slowest_seconds").error
    if drift > 2 * usual + 2 * error:
        found.append(f"the slowest drift by {drift:.3f} s an hour; without the others {usual:.3f}")
    return found


async def soak(
    model: Path, minutes: float, control_minutes: float, seed: int, output: Path | None
) -> int:
    clock, port = RealTime(), free_port()
    command = [sys.executable, "-m", "pieria.cli", "serve", str(model), "--port", str(port)]
    command += ["--served-model-name", "m", "--kv-cache-memory-bytes", "8MiB"]
    command += ["--log-level", "error", "--health-timeout-seconds", "60"]
    with Server(command, port, clock, log=Path("soak.log")) as server:
        server.wait("/ready", 300)
        load = Load(server, clock, random.Random(seed))
        rate = LOAD * await load.capacity()
        print(f"{rate:.1f} requests a second, 80 % of what it reaches", flush=True)
        control = await load.run(control_minutes * 60, rate, rude=False)
        rude = await load.run(minutes * 60, rate, rude=True)
        metrics = (await load.http.get("/metrics")).text
        await load.http.aclose()
    if output is not None:
        phases = {"control": control.shown, "rude": rude.shown}
        output.write_text(json.dumps(phases, indent=1))
    for name, phase in (("good alone", control), ("all kinds", rude)):
        last, memory = phase.samples[-1], phase.slope_of("memory_bytes")
        slow = phase.slope_of("slowest_seconds")
        print(
            f"{name}: {dict(phase.requests)}; {last.memory_bytes / 2**20:.0f} MiB,"
            f" {memory.value / 2**20:+.1f} (95 %: below {memory.upper / 2**20:+.1f}) MiB an hour;"
            f" {last.descriptors} descriptors, {last.threads} threads;"
            f" p99 {last.slowest_seconds:.3f} s, {slow.value:+.3f} s an hour"
        )
    wrong = judge(control, rude)
    for line in metrics.splitlines():
        if line.startswith(("pieria:engine_restarts_total", "pieria:cache_repairs_total")):
            print(line)
            if not line.endswith(" 0.0"):
                wrong.append(line)
    print("\n".join(wrong) or "nothing grew, nothing was lost")
    return 1 if wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--control-minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output-json", type=Path, help="what each pause showed")
    options = parser.parse_args()
    if min(options.minutes, options.control_minutes) < LEAST_MINUTES:
        parser.error(f"each part takes at least {LEAST_MINUTES} minutes, or it shows no slope")
    end_when_told()
    from tests.models import tiny

    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder)
        tiny.write_tokenizer(tiny.save(tiny.model("Llama"), model))
        times = (options.minutes, options.control_minutes)
        return asyncio.run(soak(model, *times, options.seed, options.output_json))


if __name__ == "__main__":
    sys.exit(main())
