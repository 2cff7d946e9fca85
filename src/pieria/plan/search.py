"""Which way to serve a model: all arrangements, precisions and limits of a step, and the best.

What does not fit or cannot keep up by a bound is left out with its reason; the rest is simulated.
Knows ways. Does not know how results are shown.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from pieria.engine.scheduler import SchedulerConfig
from pieria.plan.arrangement import Arrangement, arrangements
from pieria.plan.placed import Placed, Subject, placed
from pieria.plan.precision import Precision
from pieria.plan.serving import Estimate, Evaluated, Way, estimate, evaluate
from pieria.plan.slo import Slo
from pieria.plan.workload import Workload

ANSWER_TOKENS = 40_000
"""About as many are simulated for one way in a search."""

SLACK = 1.3
"""How much better than the bound a way may turn out, as bounds are of mean lengths."""

MOST_SIMULATED = 40
"""Ways; those with the best bounds of rate, time of a token and to the first."""

PROMPT_SHARES = (0.25, 0.5, 0.75)
"""Of the cards, for prompts, where they are apart."""


@dataclass(frozen=True)
class Rejected:
    """A way that was not simulated, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Found:
    """evaluated: with their ways, the best first. pareto: of them, those that no other one beats in
    everything. rejected: what was left out.
    """

    evaluated: tuple[Evaluated, ...]
    ways: tuple[Way, ...]
    pareto: tuple[int, ...]
    rejected: tuple[Rejected, ...]


Report = Callable[[str, int, int], None]
"""Told what is tried, its number, and how many there are."""


def search(
    subject: Subject,
    cards: int,
    precisions: Sequence[Precision],
    limits: Sequence[SchedulerConfig],
    workload: Workload,
    slo: Slo,
    *,
    is_apart: bool = False,
    report: Report | None = None,
) -> Found:
    """is_apart: also with some of the cards for prompts alone.

    ValueError, naming every reason, if there is no way at all.
    """
    rejected: list[Rejected] = []
    ways = list(_ways(subject, cards, precisions, limits, rejected, report))
    if is_apart:
        ways += list(_apart(ways, cards, rejected))
    short = shortened(workload)
    promising = _promising(ways, short, slo, rejected)
    tried: list[tuple[Evaluated, Way]] = []
    for number, (way, bound) in enumerate(promising):
        if report:
            report(str(way.label), number, len(promising))
        beaten = _beaten(bound, way, [e for e, _ in tried], short)
        if beaten is not None:
            rejected.append(Rejected(_name(way), beaten))
            continue
        tried.append((evaluate(way, short, slo), way))
    if not tried:
        reasons = "; ".join(f"{r.name}: {r.reason}" for r in rejected)
        raise ValueError(f"there is no way to serve {subject.name} on {cards} cards: {reasons}")
    tried.sort(key=lambda pair: merit(pair[0], slo), reverse=True)
    found = [one for one, _ in tried]
    return Found(tuple(found), tuple(way for _, way in tried), pareto(found), tuple(rejected))


def shortened(workload: Workload) -> Workload:
    """The same load, with fewer requests."""
    _, answer = workload.mean_lengths()
    requests = min(max(100, round(ANSWER_TOKENS / answer)), 2000)
    if workload.concurrency is not None:
        requests = max(requests, 3 * workload.concurrency)
    if workload.requests is not None:
        requests = min(requests, workload.requests)
    return replace(workload, requests=requests)


def merit(one: Evaluated, slo: Slo) -> tuple[bool, float, float]:
    """What makes one way better than another: enough requests within the SLO, then more of them a
    second, then faster answers.
    """
    found = one.summary
    return found.good_share >= slo.share, round(found.goodput, 3), -found.tpot.p50


def pareto(found: Sequence[Evaluated]) -> tuple[int, ...]:
    """Those that none beats: tokens a second of a card, time of a token and to the first one."""

    def values(one: Evaluated) -> tuple[float, float, float]:
        s = one.summary
        return -round(s.card_tokens_per_second, 1), round(s.tpot.p50, 5), round(s.ttft.p50, 4)

    every = [values(one) for one in found]
    return tuple(
        i
        for i, mine in enumerate(every)
        if not any(
            other != mine and all(o <= m for o, m in zip(other, mine, strict=True))
            for other in every
        )
        and mine not in every[:i]
    )


def _ways(
    subject: Subject,
    cards: int,
    precisions: Sequence[Precision],
    limits: Sequence[SchedulerConfig],
    rejected: list[Rejected],
    report: Report | None,
) -> Iterator[Way]:
    """All that fit; the others are put down."""
    largest = max(limits, key=lambda config: config.max_num_batched_tokens)
    every = list(arrangements(cards, has_experts=subject.has_experts))
    for number, spread in enumerate(every):
        for precision in precisions:
            name = f"{spread} in {precision.name}"
            if report:
                report(f"{name}: memory", number, len(every))
            try:
                whole = _placed(subject, spread, precision, largest)
            except ValueError as error:
                rejected.append(Rejected(name, str(error)))
                continue
            for config in limits:
                try:
                    yield Way(whole.with_limits(config))
                except ValueError as error:
                    rejected.append(Rejected(name, str(error)))


def _placed(
    subject: Subject, spread: Arrangement, precision: Precision, config: SchedulerConfig
) -> Placed:
    if spread.pp > len(subject.model.layers):
        raise ValueError(f"{len(subject.model.layers)} layers are no {spread.pp} stages")
    return placed(subject, spread, precision, config)


def _apart(ways: Sequence[Way], cards: int, rejected: list[Rejected]) -> Iterator[Way]:
    """Some replicas for prompts, others for answers, out of those that fit."""
    by_kind: dict[object, list[Placed]] = {}
    for way in ways:
        one = way.answers
        by_kind.setdefault((one.precision, one.replica.scheduler), []).append(one)
    for ones in by_kind.values():
        for share in PROMPT_SHARES:
            for prompts in ones:
                for answers in ones:
                    first = _of(prompts, round(cards * share))
                    last = _of(answers, cards - round(cards * share))
                    if first is not None and last is not None:
                        yield Way(last, first)


def _of(one: Placed, cards: int) -> Placed | None:
    """The same replicas, as many as `cards` make."""
    spread = one.arrangement
    if cards < 1 or cards % (spread.replica_cards * spread.together):
        return None
    dp = cards // spread.replica_cards
    return replace(one, arrangement=replace(spread, dp=dp))


def _promising(
    ways: Sequence[Way], workload: Workload, slo: Slo, rejected: list[Rejected]
) -> list[tuple[Way, Estimate]]:
    """Those that may keep up and keep to the SLO, the fastest first."""
    bounds = [(way, estimate(way, workload)) for way in ways]
    best = max((bound.rate for _, bound in bounds), default=0.0)
    needed = min(workload.rate or 0.0, best / SLACK)
    kept = []
    for way, bound in bounds:
        slow = [
            f"{name} of one request alone is {found * 1e3:.1f} ms"
            for name, found, most in (
                ("TTFT", bound.ttft, slo.ttft),
                ("TPOT", bound.tpot, slo.tpot),
            )
            if most is not None and found > SLACK * most
        ]
        if slow:
            rejected.append(Rejected(_name(way), "; ".join(slow)))
        elif bound.rate * SLACK < needed:
            why = f"it answers at most about {bound.rate:.3g} requests a second"
            rejected.append(Rejected(_name(way), why))
        else:
            kept.append((way, bound))
    if not kept and bounds:
        # Nothing keeps to the SLO: the nearest are still worth seeing.
        kept = sorted(bounds, key=lambda pair: pair[1].tpot)[:4]
    orders: tuple[Callable[[Estimate], float], ...] = (
        lambda bound: -bound.rate,
        lambda bound: bound.tpot,
        lambda bound: bound.ttft,
    )
    ranked = [sorted(range(len(kept)), key=lambda i: order(kept[i][1])) for order in orders]
    first = dict.fromkeys(i for three in zip(*ranked, strict=True) for i in three)
    for i in list(first)[MOST_SIMULATED:]:
        rejected.append(Rejected(_name(kept[i][0]), "others have better bounds"))
    return [kept[i] for i in list(first)[:MOST_SIMULATED]]


def _beaten(
    bound: Estimate, way: Way, tried: Sequence[Evaluated], workload: Workload
) -> str | None:
    """Why even its bound is no better than what another one was simulated to give."""
    for other in tried:
        found = other.summary
        faster = SLACK * found.tpot.p50 < bound.tpot and SLACK * found.ttft.p50 < bound.ttft
        if faster and found.requests_per_second > SLACK * min(
            bound.rate, workload.rate or bound.rate
        ):
            return f"{other.label} is faster in everything"
    return None


def _name(way: Way) -> str:
    label = way.label
    return (
        f"{label} in {label.precision}, {label.max_num_seqs} requests and"
        f" {label.max_num_batched_tokens} tokens a step"
    )
