"""Serving on cards that are not there: the real scheduler, replica by replica, on virtual time.

Each replica plans as it does when it serves, a step takes what it is predicted to, and what comes
of it is committed when it ends; nothing here decides what a step computes. Knows requests, pools of
replicas and events in the order of their times. Does not know models or devices.

    simulate(WorkloadTraffic(workload), Pool("serve", replica, predictor, count=8), slo)

With a `Handover`, prompts are computed in the first pool and answers in another; see `handover`.
"""

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from heapq import heappop, heappush
from itertools import count

from pieria.engine.messages import Add, Output
from pieria.engine.plan import Chunk, ChunkResult, StepPlan, StepResult
from pieria.engine.scheduler import Scheduler
from pieria.plan.handover import Handover, Receiver
from pieria.plan.outcome import PoolUse, Quantiles, Refused, Sample, Served, Simulation, StepSpan
from pieria.plan.replica import Front, Pool, PredictedRunner, Replica, StepSeconds, VirtualTime
from pieria.plan.slo import Slo
from pieria.plan.traffic import NEVER, PARAMS, Ask, Traffic

SAMPLES = 1000
"""Most samples of a pool; when there are more, every other one is dropped."""

STEPS = 1000
"""Steps in a timeline: the first ones of each pool."""

Progress = Callable[[float, int], None]
"""Told the virtual time and how many requests have ended."""


def simulate(
    traffic: Traffic,
    pool: Pool,
    slo: Slo | None = None,
    handover: Handover | None = None,
    front: Front | None = None,
    progress: Progress | None = None,
) -> Simulation:
    """Until all that was asked is answered."""
    return _Run(traffic, pool, slo or Slo(), handover, front or Front(), progress).run()


def replay(
    replica: Replica,
    seconds: StepSeconds,
    arrivals: Sequence[tuple[int, Add]],
    tokens: Mapping[str, Sequence[int]],
    stop_ids: frozenset[int] = frozenset(),
) -> Iterator[tuple[StepPlan, float]]:
    """The steps of a run that was seen, each with its predicted seconds.

    arrivals: (step before which it came, request), in order. tokens: of each request's answer, as
    they were drawn.
    """
    scheduler = replica.start(stop_ids)
    prompts = {add.id: len(add.tokens) for _, add in arrivals}

    def drawn(chunk: Chunk) -> ChunkResult:
        if chunk.draw is None:
            return ChunkResult(chunk.request)
        at = chunk.end - prompts[chunk.request]
        return ChunkResult(chunk.request, tokens[chunk.request][at])

    clock = VirtualTime()
    runner = PredictedRunner(seconds, drawn, clock)
    coming = iter([*arrivals, None])
    next_one = next(coming)
    for step in count():
        while next_one is not None and next_one[0] <= step:
            scheduler.add(next_one[1])
            next_one = next(coming)
        if scheduler.idle and next_one is None:
            return
        plan, begun = scheduler.plan(), clock.at
        if plan.chunks:
            scheduler.commit(plan, runner.run(plan))
        yield plan, clock.at - begun


class _Watch:
    """A request on its way. last: when its last token came; before its first, no time."""

    __slots__ = ("arrived", "ask", "cached", "first", "gap", "last", "replica", "started")

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.arrived = ask.at
        self.started = self.first = self.last = -1.0
        self.gap = 0.0
        self.cached = self.replica = 0


class _Engine:
    """One replica at work. load: requests that it has. ended: when its last step did."""

    def __init__(self, pool: Pool, number: int) -> None:
        self.number = number
        self.scheduler: Scheduler = pool.replica.start()
        self.receiver = Receiver(self.scheduler)
        self.clock = VirtualTime()
        self.runner = PredictedRunner(pool.seconds, self._outcome, self.clock)
        self.results: dict[str, ChunkResult] = {}
        self.load = 0
        self.ended = -2.0
        self.plan = StepPlan(())
        self.result = StepResult(())

    def add(self, add: Add, token: int) -> None:
        """ValueError if it can never be served."""
        self.scheduler.add(add)
        self.results[add.id] = ChunkResult(add.id, token)
        self.load += 1

    def check(self, add: Add) -> None:
        """ValueError if it could never be served."""
        self.scheduler.add(add)
        self.scheduler.abort([add.id])

    def begin(self, now: float) -> float:
        """Plan and run a step; when it ends."""
        self.plan = self.scheduler.plan()
        if not self.plan.chunks:
            if self.scheduler.idle:
                return now
            self.receiver.let_go()
            self.plan = self.scheduler.plan()
        self.clock.at = now
        self.result = self.runner.run(self.plan)
        return self.clock.at

    def end(self) -> list[Output]:
        return self.scheduler.commit(self.plan, self.result) if self.plan.chunks else []

    def _outcome(self, chunk: Chunk) -> ChunkResult:
        if chunk.draw is None:
            return ChunkResult(chunk.request)
        return self.results[chunk.request]


class _Unit:
    """Engines that step together."""

    __slots__ = ("begun", "desk", "engines", "is_busy")

    def __init__(self, desk: "_Desk", engines: list[_Engine]) -> None:
        self.desk = desk
        self.engines = engines
        self.begun = 0.0
        self.is_busy = False


class _Desk:
    """A pool at work, and what is noted of it."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.engines = [_Engine(pool, i) for i in range(pool.count)]
        size = pool.together
        self.units = [_Unit(self, self.engines[i : i + size]) for i in range(0, pool.count, size)]
        self.unit_of = {engine.number: unit for unit in self.units for engine in unit.engines}
        self._turn = 0
        self.busy = 0.0
        self.chunks = 0
        self.most_running = 0
        self.most_waiting = 0
        self.most_held = 0
        self.samples: list[Sample] = []
        self.timeline: list[StepSpan] = []
        self._interval = 0.01
        self._next_sample = 0.0

    def choose(self) -> _Engine:
        if self.pool.router == "round_robin":
            self._turn += 1
            return self.engines[(self._turn - 1) % len(self.engines)]
        if len(self.engines) == 1:
            return self.engines[0]
        return min(self.engines, key=lambda engine: engine.load)

    def note(self, unit: _Unit, now: float) -> None:
        """A step begins that ends at `now`."""
        self.busy += (now - unit.begun) * len(unit.engines)
        for engine in unit.engines:
            chunks = engine.plan.chunks
            running = len(chunks)
            self.chunks += running
            if running > self.most_running:
                self.most_running = running
            if running and len(self.timeline) < STEPS:
                self.timeline.append(
                    StepSpan(
                        engine.number,
                        unit.begun,
                        now - unit.begun,
                        running,
                        engine.plan.tokens,
                        sum(chunk.start for chunk in chunks),
                    )
                )
        if unit.begun >= self._next_sample:
            self._sample(unit.begun)

    def use(self, seconds: float) -> PoolUse:
        stats = [engine.scheduler.stats for engine in self.engines]
        steps = sum(s.steps for s in stats)
        return PoolUse(
            name=self.pool.name,
            replicas=self.pool.count,
            steps=steps,
            busy=self.busy / (seconds * len(self.engines)) if seconds else 0.0,
            running=self.chunks / steps if steps else 0.0,
            most_running=self.most_running,
            most_waiting=self.most_waiting,
            pages=sum(s.pages for s in stats),
            most_held=self.most_held,
            preemptions=sum(s.preemptions for s in stats),
            queries=sum(s.prefix_queries for s in stats),
            hits=sum(s.prefix_hits for s in stats),
            samples=tuple(self.samples),
            timeline=tuple(self.timeline),
        )

    def _sample(self, now: float) -> None:
        stats = [engine.scheduler.stats for engine in self.engines]
        sample = Sample(
            now,
            sum(s.running for s in stats),
            sum(s.waiting for s in stats),
            sum(s.pages_held for s in stats),
            sum(s.pages_cached for s in stats),
        )
        self.most_waiting = max(self.most_waiting, sample.waiting)
        self.most_held = max(self.most_held, sample.pages_held)
        self.samples.append(sample)
        if len(self.samples) > SAMPLES:
            del self.samples[1::2]
            self._interval *= 2
        self._next_sample = now + self._interval


class _Run:
    """The events of one simulation: arrivals, ends of steps, and handovers, in order of time."""

    def __init__(
        self,
        traffic: Traffic,
        pool: Pool,
        slo: Slo,
        handover: Handover | None,
        front: Front,
        progress: Progress | None,
    ) -> None:
        self.traffic = traffic
        self.slo = slo
        self.handover = handover
        self.front = front
        self.progress = progress
        self.desks = [_Desk(pool)] + ([_Desk(handover.pool)] if handover else [])
        self.first_desk, self.last_desk = self.desks[0], self.desks[-1]
        self.watches: dict[str, _Watch] = {}
        self.ends: list[tuple[float, int, _Unit]] = []
        self.later: list[tuple[float, int, Callable[[], None]]] = []
        self.wires: dict[int, float] = {}
        self.front_free = 0.0
        self.orders = count()
        self.asked = 0
        self.begun = NEVER
        self.now = 0.0
        self.served: list[Served] = []
        self.refused: list[Refused] = []
        self.transfers = array("d")
        self.gaps, self.gap_counts = array("d"), array("l")

    def run(self) -> Simulation:
        while True:
            arrival = self.traffic.due
            later = self.later[0][0] if self.later else NEVER
            end = self.ends[0][0] if self.ends else NEVER
            if arrival <= later and arrival <= end:
                if arrival == NEVER:
                    break
                self.now = max(self.now, arrival)
                self._arrive(self.traffic.take())
            elif later <= end:
                self.now = later
                heappop(self.later)[2]()
            else:
                self.now = end
                self._end(heappop(self.ends)[2])
        assert not self.watches, f"{len(self.watches)} requests are stuck"
        return self._simulation()

    def _arrive(self, ask: Ask) -> None:
        """A user asks."""
        self.asked += 1
        self.begun = min(self.begun, ask.at)
        front = self.front
        self.front_free = max(self.front_free, self.now) + front.token_seconds * len(ask.tokens)
        at = self.front_free + front.seconds
        if at > self.now:
            self._at(at, partial(self._enter, ask))
        else:
            self._enter(ask)

    def _at(self, time: float, event: Callable[[], None]) -> None:
        heappush(self.later, (time, next(self.orders), event))

    def _enter(self, ask: Ask) -> None:
        """The engine sees a request."""
        desk = self.first_desk
        engine = desk.choose()
        watch = _Watch(ask)
        watch.replica = engine.number
        try:
            if self.handover:
                self.last_desk.engines[0].check(self._rest(ask))
                engine.add(Add(ask.id, ask.tokens, PARAMS, 0, 1), ask.token)
            else:
                engine.add(ask.add, ask.token)
        except ValueError as error:
            self.refused.append(Refused(ask.id, str(error)))
            self.traffic.ended(ask, self.now)
            return
        self.watches[ask.id] = watch
        self._wake(desk.unit_of[engine.number])

    def _wake(self, unit: _Unit) -> None:
        """Its next step begins with the next event of a later time."""
        if not unit.is_busy:
            unit.is_busy = True
            unit.begun = self.now
            for engine in unit.engines:
                engine.plan = StepPlan(())
            heappush(self.ends, (self.now, next(self.orders), unit))

    def _end(self, unit: _Unit) -> None:
        """Commit the step that ends, and begin the next one."""
        now = self.now
        for engine in unit.engines:
            if engine.plan.chunks:
                self._note(unit, engine, engine.end())
                engine.ended = now
            engine.receiver.admit()
        unit.begun = now
        until = max([engine.begin(now) for engine in unit.engines])
        unit.is_busy = any(engine.plan.chunks for engine in unit.engines)
        if unit.is_busy:
            unit.desk.note(unit, until)
            heappush(self.ends, (until, next(self.orders), unit))

    def _note(self, unit: _Unit, engine: _Engine, outputs: Sequence[Output]) -> None:
        """What came of a step that ends now."""
        now, before, watches = self.now, engine.ended, self.watches
        steady, step = 0, now - before
        for output in outputs:
            watch = watches[output.id]
            if watch.last == before and not output.cached_tokens:
                steady += 1
                if step > watch.gap:
                    watch.gap = step
                watch.last = now
            else:
                if watch.started < 0:
                    watch.started, watch.cached = unit.begun, output.cached_tokens
                if output.tokens:
                    if watch.last < 0:
                        watch.first = now
                    else:
                        self.gaps.append(now - watch.last)
                        self.gap_counts.append(1)
                        watch.gap = max(watch.gap, now - watch.last)
                    watch.last = now
                engine.receiver.seen(output.id)
            if output.finish_reason is not None:
                self._finish(unit.desk, engine, watch)
        if steady:
            self.gaps.append(step)
            self.gap_counts.append(steady)

    def _finish(self, desk: _Desk, engine: _Engine, watch: _Watch) -> None:
        ask = watch.ask
        engine.load -= 1
        del engine.results[ask.id]
        if desk is not self.last_desk and ask.answer > 1:
            self._hand_over(engine, watch)
            return
        del self.watches[ask.id]
        self.served.append(
            Served(
                ask.id,
                watch.arrived,
                watch.started,
                watch.first,
                watch.last,
                len(ask.tokens),
                ask.answer,
                watch.cached,
                watch.gap,
                watch.replica,
            )
        )
        self.traffic.ended(ask, self.now)
        if self.progress and not len(self.served) % 100:
            self.progress(self.now, len(self.served))

    def _hand_over(self, engine: _Engine, watch: _Watch) -> None:
        """Send what is remembered of a prompt; a replica sends one after the other."""
        assert self.handover is not None
        to = self.last_desk.choose()
        to.load += 1
        tokens = len(watch.ask.tokens) - to.receiver.known(watch.ask.tokens)
        begin = max(self.now, self.wires.get(engine.number, 0.0))
        at = begin + self.handover.seconds(tokens)
        self.wires[engine.number] = at
        self.transfers.append(at - self.now)
        self._at(at, partial(self._receive, to, watch))

    def _receive(self, engine: _Engine, watch: _Watch) -> None:
        """What is remembered of a prompt is there: its answer goes on here."""
        ask = watch.ask
        watch.replica = engine.number
        engine.load -= 1
        begin = partial(engine.add, self._rest(ask), ask.token)
        engine.receiver.take(ask.id, ask.tokens, begin)
        self._wake(self.last_desk.unit_of[engine.number])

    def _rest(self, ask: Ask) -> Add:
        """What is left of a request after its first token."""
        return Add(ask.id, (*ask.tokens, ask.token), PARAMS, 0, max(1, ask.answer - 1))

    def _simulation(self) -> Simulation:
        served = self.served
        seconds = max((s.last for s in served), default=0.0) - min(self.begun, self.now)
        good = sum(self.slo.met(s.ttft, s.tpot, s.gap, s.total) for s in served)
        return Simulation(
            seconds=seconds,
            asked=self.asked,
            served=tuple(served),
            refused=tuple(self.refused),
            ttft=Quantiles.of([s.ttft for s in served]),
            tpot=Quantiles.of([s.tpot for s in served if s.answer > 1]),
            gaps=Quantiles.of(self.gaps, self.gap_counts),
            total=Quantiles.of([s.total for s in served]),
            queued=Quantiles.of([s.started - s.arrived for s in served]),
            good=good,
            prompt_tokens=sum(s.prompt for s in served),
            answer_tokens=sum(s.answer for s in served),
            pools=tuple(desk.use(seconds) for desk in self.desks),
            transferred=Quantiles.of(self.transfers) if self.handover else None,
        )
