"""Every work on every engine in turn, on a machine where nothing else runs, and what came of it.

While one engine works the others are held still. Knows works and sessions. Does not set anything
up, and does not draw tables.
"""

import asyncio
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

from benchmarks.peers.engines import CACHE_GIB, PIERIA, Engine
from benchmarks.peers.models import Model
from benchmarks.peers.sessions import (
    EngineFailed,
    Served,
    Session,
    Worker,
    llama_batched_bench,
    llama_bench,
)
from benchmarks.peers.work import (
    GREEDY_ANSWER,
    GREEDY_QUESTION,
    LIMITS_SECONDS,
    Prompts,
    Work,
)
from pieria.bench.limits import measured
from pieria.bench.load import Target, drive
from pieria.bench.metrics import errors, summarize
from pieria.bench.workload import Conversation, Turn
from pieria.clock import Clock
from pieria.hardware.devices import find
from pieria.models.tokenizer import Tokenizer

IN_PROCESS = ("decode", "prompt", "batch", "shared")
WARMED_TOKENS = 8192
"""Works up to this size are done once before they count."""
LEAST_PROMPTS = 4
"""Of a server's run, so that one stream is asked more than once."""
CHECKS = 16
AGREEING = 0.75
"""Share of first tokens that must be those of transformers: bfloat16 leaves some of them open."""

Samples = dict[str, dict[str, dict[str, list[float]]]]
"""Work -> engine -> measure -> a number for each time."""


@dataclass
class Results:
    """limits: bytes/s read and bf16 FLOP/s, the best of all looks. problems: work -> engine -> why.

    failed: work -> engine -> requests that failed, of all times.
    """

    samples: Samples = field(default_factory=dict)
    problems: dict[str, dict[str, str]] = field(default_factory=dict)
    failed: dict[str, dict[str, int]] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    sane: dict[str, bool] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)

    def add(self, work: Work, engine: str, found: Mapping[str, float]) -> None:
        kept = self.samples.setdefault(work.name, {}).setdefault(engine, {})
        for key, value in found.items():
            kept.setdefault(key, []).append(value)

    def look(self, clock: Clock) -> None:
        """At the machine's limits, as they are now."""
        spec = measured(find("cpu"), clock)
        assert spec.bandwidth is not None
        now = {"read": spec.bandwidth.value, "bf16": spec.flops["bfloat16"].value}
        self.limits = {key: max(value, self.limits.get(key, 0.0)) for key, value in now.items()}


@dataclass(frozen=True)
class Bench:
    """pythons: by environment, and Pieria's own. patience_seconds: who takes longer for one sample

    of a work gives no further one. settle_seconds: for which an engine that has loaded is let be
    before it is asked, as a server mostly is. save: called whenever a work is done.
    """

    engines: Sequence[Engine]
    pythons: Mapping[str, Path]
    model: Model
    tokenizer: Tokenizer
    threads: int
    repeats: int
    patience_seconds: float
    settle_seconds: float
    cache_tokens: Callable[[int], int]
    logs: Path
    clock: Clock
    results: Results
    save: Callable[[], None]

    def run(self, works: Sequence[Work]) -> None:
        """All works; what an engine cannot do is kept as its problem, and the others go on."""
        self.logs.mkdir(parents=True, exist_ok=True)
        self.results.look(self.clock)
        missing = [work for work in works if work.name not in self.results.samples]
        inside = [work for work in missing if work.kind in IN_PROCESS]
        unknown = any(engine.name not in self.results.sane for engine in self.engines)
        with ExitStack() as stack:
            sessions = self._workers(stack) if inside or unknown else {}
            if unknown:
                self._check(sessions)
            for work in inside:
                self._take_turns(work, lambda e, w, n: self._inside(sessions, e, w, n))
        self.results.look(self.clock)
        with ExitStack() as stack:
            servers = _Servers(self, stack)
            for work in missing:
                if work.kind == "server":
                    self._take_turns(work, lambda e, w, n: self._served(servers, e, w, n))
        for work in missing:
            if work.kind == "start":
                self._take_turns(work, self._started)
            elif work.kind == "memory":
                self._take_turns(work, self._remembered, once=True)
        self.results.look(self.clock)
        self.save()

    def serve(
        self, engine: Engine, slots: int = 1, slot_tokens: int = 2048, watched: bool = False
    ) -> Served:
        """A server of `engine`, ready."""
        log = self.logs / f"{engine.name}-server-{slots}.log"
        return Served(
            engine.name,
            self.pythons[engine.name],
            self.model,
            self.threads,
            log,
            self.clock,
            slots,
            slot_tokens,
            watched,
        )

    def _workers(self, stack: ExitStack) -> dict[str, Session]:
        """Of each engine one that answers in process; of llama.cpp a server with one slot."""
        found: dict[str, Session] = {}
        for engine in self.engines:
            _say(f"loading {engine.name}")
            session: Session
            try:
                if engine.name == "llama.cpp":
                    session = self.serve(engine)
                else:
                    python, log = self.pythons[engine.name], self.logs / f"{engine.name}.log"
                    session = Worker(engine.name, python, self.model, self.threads, log)
            except EngineFailed as error:
                self.results.said[engine.name] = f"it did not start: {error}"
                self.results.sane[engine.name] = False
                continue
            stack.callback(session.close)
            self.clock.sleep(self.settle_seconds)
            session.hold()
            found[engine.name] = session
        return found

    def _check(self, sessions: Mapping[str, Session]) -> None:
        """Whether each answers a question as it should, and begins texts as transformers does."""
        question = self.tokenizer.encode(GREEDY_QUESTION, False)
        check = Work("check", "", "batch", (), CHECKS, own=64)
        prompts = check.prompts(self.tokenizer.size, 0)
        begun: dict[str, list[int]] = {}
        for name, session in sessions.items():
            session.resume()
            try:
                _, [answer] = session.generate([question], 12)
                begun[name] = [first for _, [[first]] in _one_by_one(session, prompts)]
            except (EngineFailed, ValueError) as error:
                self.results.said[name], self.results.sane[name] = f"it failed: {error}", False
                continue
            finally:
                session.hold()
            text = self.tokenizer.decode(answer)
            self.results.said[name] = text.strip().splitlines()[0] if text.strip() else ""
            self.results.sane[name] = GREEDY_ANSWER in text or not self.model.real
        reference = begun.get("transformers")
        for name, tokens in begun.items():
            if reference is None:
                break
            same = sum(a == b for a, b in zip(tokens, reference, strict=True))
            self.results.said[name] += f" ({same} of {CHECKS} first tokens as transformers)"
            self.results.sane[name] &= same >= AGREEING * CHECKS
        self.save()

    def _take_turns(
        self,
        work: Work,
        sample: Callable[[Engine, Work, object], dict[str, float]],
        once: bool = False,
    ) -> None:
        """repeats times each engine in turn, beginning with another one each time."""
        left = [
            engine
            for engine in self.engines
            if self.results.sane.get(engine.name) and _takes(engine, work)
        ]
        size = work.requests * (work.shared + work.own + work.output)
        warm = work.kind in (*IN_PROCESS, "server") and size <= WARMED_TOKENS
        numbers: list[object] = ["warm-up"] if warm else []
        numbers += range(1 if once else self.repeats)
        for number in numbers:
            if isinstance(number, int) and left:
                start = number % len(left)
                left = left[start:] + left[:start]
            for engine in list(left):
                began = self.clock.now()
                try:
                    found = sample(engine, work, number)
                except (EngineFailed, OSError, RuntimeError) as error:
                    self.results.problems.setdefault(work.name, {})[engine.name] = str(error)
                    _say(f"{work.name}: {engine.name}: {error}")
                    left.remove(engine)
                    continue
                seconds = self.clock.now() - began
                shown = ", ".join(f"{key} {value:.4g}" for key, value in found.items())
                _say(f"{work.name} {number}: {engine.name}: {shown} ({seconds:.0f} s)")
                if number != "warm-up":
                    self.results.add(work, engine.name, found)
                if seconds > self.patience_seconds:
                    left.remove(engine)
        self.save()

    def _inside(
        self, sessions: Mapping[str, Session], engine: Engine, work: Work, number: object
    ) -> dict[str, float]:
        session, python = sessions[engine.name], self.pythons[engine.name]
        if engine.name == "llama.cpp" and work.kind != "shared":
            log = self.logs / "llama.cpp-programs.log"
            if work.kind == "batch":
                return {
                    "rate": llama_batched_bench(
                        python, self.model, self.threads, work.requests, work.own, work.output, log
                    )
                }
            counts = (0, work.output - 1) if work.kind == "decode" else (work.own, 0)
            options = [*("-p", str(counts[0]), "-n", str(counts[1]))]
            return {"rate": llama_bench(python, self.model, self.threads, options, log)}
        session.resume()
        try:
            seconds, outputs = session.generate(self._prompts(work, number), work.output)
            if any(len(output) != work.output for output in outputs):
                raise EngineFailed(f"{[len(o) for o in outputs]} tokens, not {work.output} each")
            if work.kind == "decode":
                first, _ = session.generate(self._prompts(work, f"{number} first"), 1)
                return {"rate": (work.output - 1) / (seconds - first)}
        finally:
            session.hold()
        if work.kind == "shared":
            return {"seconds": seconds}
        counted = work.own if work.kind == "prompt" else work.requests * (work.own + work.output)
        return {"rate": counted / seconds}

    def _prompts(self, work: Work, number: object) -> Prompts:
        return work.prompts(self.tokenizer.size, number)

    def _served(
        self, servers: "_Servers", engine: Engine, work: Work, number: object
    ) -> dict[str, float]:
        session = servers.of(engine, work)
        session.resume()
        try:
            numbers = self._load(session, work, number, max(LEAST_PROMPTS, work.requests))
        finally:
            session.hold()
        if number != "warm-up":
            failed = self.results.failed.setdefault(work.name, {})
            failed[engine.name] = failed.get(engine.name, 0) + int(numbers["failed"])
        return {
            "ttft": numbers["median_ttft_ms"],
            "itl": numbers["median_itl_ms"],
            "rate": numbers["output_throughput"],
            "goodput": numbers["request_goodput"],
            "p99_ttft": numbers["p99_ttft_ms"],
            "p99_itl": numbers["p99_itl_ms"],
        }

    def _load(
        self, session: Served, work: Work, salt: object, count: int, at_a_time: int | None = None
    ) -> dict[str, float]:
        """`count` prompts like the work's, its number of requests at a time."""
        body = {"temperature": 0, "ignore_eos": True}
        target = Target(session.url, "m", self.tokenizer, body)
        conversations = [
            Conversation((Turn(tuple(prompt), work.output),))
            for i in range(ceil(count / work.requests))
            for prompt in self._prompts(work, f"{salt}/{i}")
        ][:count]
        limit = at_a_time or work.requests
        outcomes, seconds = asyncio.run(
            drive(target, conversations, [0.0] * count, limit, self.clock)
        )
        for message, failures in errors(outcomes)[:3]:
            _say(f"{failures} failed: {message}")
        return summarize(outcomes, seconds, limits=LIMITS_SECONDS)

    def _started(self, engine: Engine, work: Work, number: object) -> dict[str, float]:
        session = self.serve(engine)
        try:
            seconds, _ = session.generate(self._prompts(work, number), 1)
            return {"seconds": session.ready_seconds + seconds}
        finally:
            session.close()

    def _remembered(self, engine: Engine, work: Work, number: object) -> dict[str, float]:
        """After as many distinct tokens as the cache has room for, and then under 128 streams."""
        room = self.cache_tokens(CACHE_GIB << 30)
        session = self.serve(engine, watched=True)
        try:
            count = ceil(room / (work.own + work.output)) + 1
            numbers = self._load(session, work, number, count, at_a_time=32)
            streams = Work("streams", "", "server", (), 128, own=128, output=64)
            more = self._load(session, streams, number, streams.requests)
            if numbers["failed"] or more["failed"]:
                raise EngineFailed("requests failed")
            return {"mebibytes": session.server.peak_bytes() / 2**20 - CACHE_GIB * 1024}
        finally:
            session.close()


class _Servers:
    """Servers that are running; llama.cpp's is started anew for another number of slots."""

    def __init__(self, bench: Bench, stack: ExitStack) -> None:
        self._bench = bench
        self._running: dict[str, Served] = {}
        stack.callback(self._close)

    def of(self, engine: Engine, work: Work) -> Served:
        slots = work.requests if engine.name == "llama.cpp" else 1
        session = self._running.get(engine.name)
        if session is not None and session.slots != slots:
            self._running.pop(engine.name).close()
            session = None
        if session is None:
            _say(f"starting the server of {engine.name}")
            session = self._bench.serve(engine, slots, work.own + work.output + 16)
            self._running[engine.name] = session
            self._bench.clock.sleep(self._bench.settle_seconds)
        return session

    def _close(self) -> None:
        for session in self._running.values():
            session.close()


def _takes(engine: Engine, work: Work) -> bool:
    """Whether there is a way for this engine to do the work at all."""
    if work.kind == "memory":
        return engine.serves and engine.name in (PIERIA.name, "vllm")  # have a cache of a set size
    return engine.serves or work.kind in IN_PROCESS


def _one_by_one(session: Session, prompts: Prompts) -> Iterator[tuple[float, Prompts]]:
    for prompt in prompts:
        yield session.generate([prompt], 1)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def as_json(results: Results) -> dict[str, Any]:
    return dict(vars(results))
