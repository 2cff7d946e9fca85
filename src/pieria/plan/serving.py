"""One way to serve a model, tried under a workload: what it takes, holds, and gives.

Knows placed models and simulations. `search` compares many ways; reports show them. All results are
data: seconds, bytes, tokens, and where the numbers behind them come from.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pieria.engine.pages import most_pages
from pieria.engine.plan import Chunk, Draw, StepPlan
from pieria.plan.arrangement import Arrangement
from pieria.plan.handover import Handover
from pieria.plan.outcome import Quantiles, Simulation
from pieria.plan.placed import MemoryUse, Placed
from pieria.plan.predict import Explanation
from pieria.plan.replica import Front
from pieria.plan.simulate import Progress, simulate
from pieria.plan.slo import Slo
from pieria.plan.traffic import WorkloadTraffic
from pieria.plan.workload import Workload

CONTEXTS = tuple(1 << i for i in range(10, 21))
"""Lengths of requests at which concurrency is reported, in tokens."""


@dataclass(frozen=True)
class Way:
    """How a model is served: by replicas that do all, or by some for prompts and some for answers.

    prompts: the replicas that compute prompts and hand them over; None: `answers` does all.
    """

    answers: Placed
    prompts: Placed | None = None
    router: str = "least_loaded"

    @property
    def cards(self) -> int:
        return self.answers.arrangement.cards + (
            self.prompts.arrangement.cards if self.prompts else 0
        )

    @property
    def pools(self) -> tuple[Placed, ...]:
        return (self.prompts, self.answers) if self.prompts else (self.answers,)

    @property
    def label(self) -> "Label":
        scheduler = self.answers.replica.scheduler
        return Label(
            self.answers.arrangement,
            self.prompts.arrangement if self.prompts else None,
            self.answers.precision.name,
            scheduler.max_num_seqs,
            scheduler.max_num_batched_tokens,
        )

    def run(self, workload: Workload, slo: Slo, progress: Progress | None = None) -> Simulation:
        """ValueError if the two kinds of replicas cannot hand over."""
        subject = self.answers.subject
        front = Front(subject.practice.front_seconds, subject.practice.front_token)
        traffic = WorkloadTraffic(workload)
        answers = self.answers.pool("answers" if self.prompts else "all", self.router)
        if self.prompts is None:
            return simulate(traffic, answers, slo, None, front, progress)
        handover = Handover(answers, wire(self.prompts, self.answers))
        prompts = self.prompts.pool("prompts", self.router)
        return simulate(traffic, prompts, slo, handover, front, progress)


@dataclass(frozen=True)
class Label:
    """What tells two ways apart."""

    arrangement: Arrangement
    prompts: Arrangement | None
    precision: str
    max_num_seqs: int
    max_num_batched_tokens: int

    def __str__(self) -> str:
        shown = str(self.arrangement)
        return f"{self.prompts} for prompts, {shown} for answers" if self.prompts else shown


@dataclass(frozen=True)
class Wire:
    """From replicas for prompts to those for answers.

    bandwidth: bytes/s between two replicas, all of whose cards send and receive at once.
    token_bytes, state_bytes: what is remembered of a token, and of a request besides.
    """

    bandwidth: float
    latency: float
    token_bytes: int
    state_bytes: int

    def __call__(self, tokens: int) -> float:
        """Seconds that what is remembered of so many tokens takes."""
        return self.latency + (tokens * self.token_bytes + self.state_bytes) / self.bandwidth


def wire(prompts: Placed, answers: Placed) -> Wire:
    """ValueError if the cluster does not join the cards of both."""
    fabric = prompts.subject.cluster.fabric(prompts.arrangement.cards + answers.arrangement.cards)
    pairs = min(prompts.arrangement.replica_cards, answers.arrangement.replica_cards)
    # A card's links to those of the other replica are those within a group with one card more.
    bandwidth = pairs * fabric.payload(pairs + 1).value
    return Wire(bandwidth, fabric.latency.value, answers.token_bytes, answers.state_bytes)


@dataclass(frozen=True)
class Summary:
    """A simulation in numbers. offered: requests a second, or users at once if `is_closed`.

    card_tokens_per_second: of answers. most_held: share of the cache's pages.
    """

    offered: float
    is_closed: bool
    ttft: Quantiles
    tpot: Quantiles
    gaps: Quantiles
    queued: Quantiles
    total: Quantiles
    asked: int
    refused: int
    requests_per_second: float
    prompt_tokens_per_second: float
    answer_tokens_per_second: float
    card_tokens_per_second: float
    goodput: float
    good_share: float
    busy: float
    running: float
    most_running: int
    most_waiting: int
    most_held: float
    hit_share: float
    preemptions: int
    handover: Quantiles | None

    @property
    def user_tokens_per_second(self) -> float:
        """As the median user sees them come."""
        return 1 / self.tpot.p50 if self.tpot.p50 else 0.0


def summary(found: Simulation, workload: Workload, cards: int) -> Summary:
    pool = found.pools[-1]
    is_closed = workload.concurrency is not None
    offered = float(workload.concurrency or 0)
    if not is_closed:
        arrived = [s.arrived for s in found.served]
        span = max(arrived, default=0.0) - min(arrived, default=0.0)
        offered = workload.rate or (found.asked / span if span else 0.0)
    return Summary(
        offered=offered,
        is_closed=is_closed,
        ttft=found.ttft,
        tpot=found.tpot,
        gaps=found.gaps,
        queued=found.queued,
        total=found.total,
        asked=found.asked,
        refused=len(found.refused),
        requests_per_second=found.requests_per_second,
        prompt_tokens_per_second=found.prompt_tokens_per_second,
        answer_tokens_per_second=found.answer_tokens_per_second,
        card_tokens_per_second=found.answer_tokens_per_second / cards,
        goodput=found.goodput,
        good_share=found.good_share,
        busy=pool.busy,
        running=pool.running,
        most_running=pool.most_running,
        most_waiting=max(p.most_waiting for p in found.pools),
        most_held=pool.most_held / pool.pages if pool.pages else 0.0,
        hit_share=found.pools[0].hit_share,
        preemptions=sum(p.preemptions for p in found.pools),
        handover=found.transferred,
    )


@dataclass(frozen=True)
class Capacity:
    """Requests of `context` tokens that all replicas hold at once.

    in_memory: if all that weights and intermediates leave were cache. at_once: in the cache as it
    is, which is no larger than all seats need, and with seats.
    """

    context: int
    in_memory: int
    at_once: int


def capacities(placed: Placed) -> tuple[Capacity, ...]:
    replica, dp = placed.replica, placed.arrangement.dp
    seats = replica.scheduler.max_num_seqs
    found = []
    for context in (*(c for c in CONTEXTS if c < replica.max_model_len), replica.max_model_len):
        pages = most_pages(replica.windows, replica.page_tokens, context, 1)
        # A running request has two states; see `Scheduler`.
        held = min(
            (use.cache + use.free) // each
            for use, rank in zip(placed.memory, placed.predictor.memory, strict=True)
            if (each := pages * rank.need.page + 2 * (rank.need.state or 0))
        )
        at_once = min(replica.concurrent(context), seats)
        found.append(Capacity(context, held * dp, at_once * dp))
    return tuple(found)


@dataclass(frozen=True)
class ExplainedStep:
    """One step of a replica, call by call. context: tokens that its requests have in the mean."""

    name: str
    requests: int
    tokens: int
    context: int
    explanation: Explanation


def typical_steps(
    placed: Placed, found: Simulation, workload: Workload
) -> tuple[ExplainedStep, ...]:
    """A step of single tokens as the simulation's mean one, and a prompt of mean length alone."""
    prompt, answer = (max(1, round(mean)) for mean in workload.mean_lengths())
    running = max(1, round(found.pools[-1].running))
    context = min(prompt + answer // 2, placed.replica.max_model_len - 1)
    budget = placed.replica.scheduler.max_num_batched_tokens
    steps = (
        ("answers", [(context, 1)] * running),
        ("a prompt", [(0, min(prompt, budget))]),
    )
    return tuple(
        ExplainedStep(
            name,
            len(chunks),
            sum(tokens for _, tokens in chunks),
            round(sum(start + tokens for start, tokens in chunks) / len(chunks)),
            placed.predictor.explain(_plan(placed, chunks)),
        )
        for name, chunks in steps
    )


def _plan(placed: Placed, chunks: Sequence[tuple[int, int]]) -> StepPlan:
    """Of (start, tokens), each with a draw."""
    replica = placed.replica
    states = replica.states > 0
    return StepPlan(
        tuple(
            Chunk(
                str(i),
                start,
                (0,) * count,
                ((0,) * -(-(start + count) // replica.page_tokens),) * len(replica.windows),
                reads=0 if start and states else -1,
                writes=0 if states else -1,
                draw=Draw(0),
            )
            for i, (start, count) in enumerate(chunks)
        )
    )


@dataclass(frozen=True)
class Evaluated:
    """A way that fits, under the workload."""

    label: Label
    cards: int
    summary: Summary
    memory: tuple[MemoryUse, ...]
    capacities: tuple[Capacity, ...]


def evaluate(way: Way, workload: Workload, slo: Slo, progress: Progress | None = None) -> Evaluated:
    found = way.run(workload, slo, progress)
    return evaluated(way, found, workload)


def evaluated(way: Way, found: Simulation, workload: Workload) -> Evaluated:
    return Evaluated(
        way.label,
        way.cards,
        summary(found, workload, way.cards),
        way.answers.memory,
        capacities(way.answers),
    )


@dataclass(frozen=True)
class Estimate:
    """What can be said of a way without a simulation.

    ttft, tpot: seconds that one request alone takes. rate: requests a second at which all replicas
    are busy with batches as large as may be: an optimistic bound.
    """

    ttft: float
    tpot: float
    rate: float


def estimate(way: Way, workload: Workload) -> Estimate:
    prompt, answer = (max(1, round(mean)) for mean in workload.mean_lengths())
    practice = way.answers.subject.practice
    first, last = way.pools[0], way.pools[-1]
    budget = first.replica.scheduler.max_num_batched_tokens
    parts = [min(budget, prompt - at) for at in range(0, prompt, budget)]
    alone = sum(
        first.predictor.seconds([count], [at * budget], int(at == len(parts) - 1), int(at > 0))
        for at, count in enumerate(parts)
    )
    context = min(prompt + answer // 2, last.replica.max_model_len - 1)
    seats = min(last.replica.scheduler.max_num_seqs, last.replica.concurrent(prompt + answer))
    seats = max(1, seats)
    each = last.predictor.seconds([1] * seats, [context] * seats, seats, seats) / seats
    front = practice.front_seconds + practice.front_token * prompt
    tpot = last.predictor.seconds([1], [context], 1, 1)
    if way.prompts is not None:
        rate = min(
            first.arrangement.dp / alone,
            last.arrangement.dp / (answer * each) if answer > 1 else 1e9,
        )
    else:
        # Prompts' tokens beside others cost what they add to a step.
        beside = max(1, min(budget - seats, prompt))
        mixed = last.predictor.seconds(
            [1] * seats + [beside], [context] * seats + [0], seats + 1, seats
        )
        rate = last.arrangement.dp / (
            prompt * max(0.0, mixed - each * seats) / beside + answer * each
        )
    if practice.front_token:
        rate = min(rate, 1 / (practice.front_token * prompt))
    return Estimate(front + alone, tpot, rate)


def load_curve(
    way: Way, workload: Workload, slo: Slo, requests: int, shares: Sequence[float]
) -> tuple[Summary, ...]:
    """The workload at other loads: at shares of the largest rate, or with up to twice the users."""
    found = []
    if workload.concurrency is not None:
        seats = way.answers.replica.scheduler.max_num_seqs * way.answers.arrangement.dp
        users = sorted(
            {max(1, round(share * min(seats, 2 * workload.concurrency))) for share in shares}
        )
        loads = [
            replace(workload, concurrency=u, requests=max(requests, 4 * u), duration=None)
            for u in users
        ]
    else:
        largest = estimate(way, workload).rate
        loads = [
            replace(workload, rate=share * largest, requests=requests, duration=None)
            for share in shares
        ]
    for load in loads:
        found.append(summary(way.run(load, slo), load, way.cards))
    return tuple(found)
