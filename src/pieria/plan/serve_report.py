"""What `pieria plan serve` finds out, as data for tables, JSON and pages.

Knows everything of planning that a serving report has. Does not know how it is shown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from pieria.config import Decision
from pieria.engine.scheduler import SchedulerConfig
from pieria.hardware.spec import DeviceSpec
from pieria.plan.assumptions import Assumption, assumptions
from pieria.plan.bounds import Side, at
from pieria.plan.errors import ErrorRow, stored
from pieria.plan.outcome import Simulation
from pieria.plan.placed import Subject, placed
from pieria.plan.precision import Precision
from pieria.plan.search import Found, Rejected, Report, pareto, search, shortened
from pieria.plan.serving import (
    Evaluated,
    ExplainedStep,
    Summary,
    Way,
    Wire,
    evaluated,
    load_curve,
    summary,
    typical_steps,
    wire,
)
from pieria.plan.simulate import Progress
from pieria.plan.slo import Slo
from pieria.plan.workload import Workload

LOADS = (0.1, 0.3, 0.5, 0.65, 0.8, 0.9, 1.0)
"""Of the largest rate by a bound, at which latency is shown against throughput."""


@dataclass(frozen=True)
class Best:
    """The best way, in detail.

    worst, best: with every number of the cluster at its worst and best bound; None where it does
    not fit then. usual: at neither, of the same requests: fewer than the simulation's where those
    are many. curve: at other loads. within_slo: of those, the largest load that enough
    requests kept the SLO at; None if none did. wire: between two kinds of replicas.
    """

    simulation: Simulation
    decisions: tuple[Decision, ...]
    steps: tuple[ExplainedStep, ...]
    usual: Summary
    worst: Summary | None
    best: Summary | None
    curve: tuple[Summary, ...]
    within_slo: float | None
    wire: Wire | None


@dataclass(frozen=True)
class ServeReport:
    """evaluated: the best first, all under `workload`, or fewer of its requests where there are
    several. pareto: places of those that none beats. detail: of the first.

    device: with all its numbers; cluster: its name. stand_ins: what was not measured on this device
    and what was taken instead, and how often. errors: of this planner's predictions for machines
    that were measured, whatever the report is of.
    """

    model: str
    device: DeviceSpec
    cluster: str
    cards: int
    practice: str
    routing: str
    workload: str
    slo: Slo
    evaluated: tuple[Evaluated, ...]
    pareto: tuple[int, ...]
    rejected: tuple[Rejected, ...]
    detail: Best
    assumptions: tuple[Assumption, ...]
    stand_ins: Mapping[str, int]
    errors: tuple[ErrorRow, ...]


def plan_one(
    subject: Subject, way: Way, workload: Workload, slo: Slo, progress: Progress | None = None
) -> ServeReport:
    """Of one way."""
    found = way.run(workload, slo, progress)
    one = evaluated(way, found, workload)
    return _report(subject, (one,), (0,), (), way, found, workload, slo)


def plan_best(
    subject: Subject,
    cards: int,
    precisions: Sequence[Precision],
    limits: Sequence[SchedulerConfig],
    workload: Workload,
    slo: Slo,
    *,
    is_apart: bool = False,
    report: Report | None = None,
    progress: Progress | None = None,
) -> ServeReport:
    """Of all ways, and in detail of the best. ValueError, with every reason, if there is none."""
    found: Found = search(
        subject, cards, precisions, limits, workload, slo, is_apart=is_apart, report=report
    )
    way = found.ways[0]
    simulation = way.run(shortened(workload), slo, progress)
    return _report(
        subject, found.evaluated, found.pareto, found.rejected, way, simulation, workload, slo
    )


def _report(
    subject: Subject,
    every: tuple[Evaluated, ...],
    front: tuple[int, ...],
    rejected: tuple[Rejected, ...],
    way: Way,
    found: Simulation,
    workload: Workload,
    slo: Slo,
) -> ServeReport:
    short = shortened(workload)
    assert short.requests is not None
    curve = load_curve(way, short, slo, min(short.requests, 400), LOADS)
    usual = found if found.asked <= short.requests else way.run(short, slo)
    kept = [point.offered for point in curve if point.good_share >= slo.share]
    return ServeReport(
        model=subject.name,
        device=subject.cluster.device,
        cluster=subject.cluster.name,
        cards=way.cards,
        practice=subject.practice.name,
        routing=subject.routing.name,
        workload=str(workload),
        slo=slo,
        evaluated=every,
        pareto=front if len(every) > 1 else pareto(every),
        rejected=rejected,
        detail=Best(
            simulation=found,
            decisions=way.answers.decisions,
            steps=typical_steps(way.answers, found, workload),
            usual=summary(usual, short, way.cards),
            worst=_at_bounds(way, short, slo, "worst"),
            best=_at_bounds(way, short, slo, "best"),
            curve=curve,
            within_slo=max(kept, default=None),
            wire=wire(way.prompts, way.answers) if way.prompts else None,
        ),
        assumptions=assumptions(subject),
        stand_ins=way.answers.predictor.notes,
        errors=stored(),
    )


def _at_bounds(way: Way, workload: Workload, slo: Slo, side: Side) -> Summary | None:
    try:
        pools = [
            placed(
                replace(one.subject, cluster=at(one.subject.cluster, side)),
                one.arrangement,
                one.precision,
                one.replica.scheduler,
            )
            for one in way.pools
        ]
    except ValueError:
        return None
    bounded = Way(pools[-1], pools[0] if way.prompts else None, way.router)
    return summary(bounded.run(workload, slo), workload, way.cards)


def as_json(report: ServeReport) -> dict[str, Any]:
    """All of it but for single requests, which `Simulation.served` has."""
    short = replace(report.detail.simulation, served=())
    thin = replace(report, detail=replace(report.detail, simulation=short))
    found: dict[str, Any] = _plain(thin)
    return found


def _plain(value: Any) -> Any:
    """As JSON has it; dataclasses also with their names where they may be of several kinds."""
    if is_dataclass(value) and not isinstance(value, type):
        made = {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
        return {"op": type(value).__name__, **made} if "op" in made else made
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return value
