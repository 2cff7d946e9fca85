"""`pieria plan serve`: from options to a report.

Knows how options name models, devices and ways. Does not know how a report is shown.
"""

from dataclasses import dataclass
from pathlib import Path

from pieria.engine.scheduler import SchedulerConfig
from pieria.hardware import catalog
from pieria.models.catalog import CATALOG
from pieria.models.checkpoint import open_checkpoint
from pieria.models.config import ModelConfig
from pieria.models.keys import Keys
from pieria.models.pull import resolve
from pieria.models.registry import model_config
from pieria.plan import presets
from pieria.plan.arrangement import Arrangement, arrangement
from pieria.plan.placed import Placed, Subject, placed, what_fits
from pieria.plan.practice import PRACTICES
from pieria.plan.precision import Precision, precision
from pieria.plan.routing import ROUTINGS
from pieria.plan.search import Report
from pieria.plan.serve_options import EngineOptions, LayoutOptions, PlanOptions
from pieria.plan.serve_report import ServeReport, plan_best, plan_one
from pieria.plan.serving import Way
from pieria.plan.simulate import Progress
from pieria.plan.slo import slo
from pieria.plan.workload import workload


@dataclass(frozen=True)
class Watchers:
    """Whom to tell how far it is: of a search, and of one simulation."""

    report: Report | None = None
    progress: Progress | None = None


def serve(
    options: PlanOptions,
    layout: LayoutOptions = LayoutOptions(),  # noqa: B008 (it is frozen)
    engine: EngineOptions = EngineOptions(),  # noqa: B008
    watchers: Watchers = Watchers(),  # noqa: B008
) -> ServeReport:
    """ValueError naming what is wrong, and what would work."""
    load, bounds = workload(options.workload), slo(options.slo)
    subject, cards = target(options.model, options.device, options.cards, engine)
    forms = [precision(name).with_cache(engine.kv_cache_dtype) for name in engine.quantize]
    limits = [
        _limits(seqs, tokens, engine)
        for seqs in engine.max_num_seqs
        for tokens in engine.max_num_batched_tokens
    ]
    if options.search or options.disaggregate:
        given = [n for n in ("tp", "pp", "ep", "dp") if getattr(layout, n) is not None]
        if given or options.prefill_cards:
            raise ValueError(
                f"--{(given or ['prefill-cards'])[0]} says what a search is to find out;"
                " leave one of them out"
            )
        return plan_best(
            subject,
            cards,
            forms,
            limits,
            load,
            bounds,
            is_apart=options.disaggregate,
            report=watchers.report,
            progress=watchers.progress,
        )
    if len(forms) * len(limits) > 1:
        raise ValueError("several values of --quantize or --max-num-* are for a --search")
    way = _way(subject, cards, options.prefill_cards, layout, forms[0], limits[0])
    return plan_one(subject, way, load, bounds, watchers.progress)


def target(
    model: str, device: str, cards: int | None, engine: EngineOptions
) -> tuple[Subject, int]:
    """What is placed, and on how many cards. ValueError for unknown names."""
    name, counted = catalog.counted(device)
    if cards is not None and counted is not None and cards != counted:
        raise ValueError(f"--cards {cards} and --device {device} name different numbers of cards")
    cluster = catalog.cluster(name)
    count = cards or counted or int(cluster.cards.value)
    if count < 1:
        raise ValueError(f"--cards {count} must be at least 1")
    subject = Subject(
        model,
        described(model),
        cluster,
        PRACTICES[engine.practice],
        ROUTINGS[engine.routing],
        engine.block_size,
        engine.memory_fraction,
        engine.max_model_len,
    )
    return subject, count


def described(name: str) -> ModelConfig:
    """Of a model that is here, by its path or short name, or of a preset or config.json.

    ValueError naming the presets.
    """
    if not name:
        raise ValueError(f"no model is given; there are: {_preset_names()}")
    path = Path(name).expanduser()
    if name in CATALOG:
        there = resolve(name)
        if there is None:
            raise ValueError(f"{name} is not here yet; `pieria pull {name}` fetches it")
        path = there
    if path.suffix == ".gguf" or (path.is_dir() and not (path / "config.json").exists()):
        return model_config(Keys(open_checkpoint(path).config, str(path)))
    return presets.model(name)


def one_way(
    subject: Subject, spread: Arrangement, form: Precision, limits: SchedulerConfig
) -> Placed:
    """ValueError, with what would work, if it does not divide or fit."""
    try:
        return placed(subject, spread, form, limits)
    except ValueError as error:
        works = what_fits(subject, spread.cards, form, limits)
        raise ValueError(f"{error}; what works: {works}") from error


def _way(
    subject: Subject,
    cards: int,
    for_prompts: int,
    layout: LayoutOptions,
    form: Precision,
    limits: SchedulerConfig,
) -> Way:
    if not for_prompts:
        spread = arrangement(cards, layout.tp, layout.pp, layout.ep, layout.dp)
        return Way(one_way(subject, spread, form, limits), router=layout.router)
    if not 0 < for_prompts < cards:
        raise ValueError(f"--prefill-cards {for_prompts} must leave some of {cards} cards")
    if layout.dp is not None:
        raise ValueError("--dp follows from --prefill-cards and --cards; leave it out")
    sizes = layout.tp or 1, layout.pp, layout.ep
    prompts = arrangement(for_prompts, *sizes, None)
    answers = arrangement(cards - for_prompts, *sizes, None)
    return Way(
        one_way(subject, answers, form, limits),
        one_way(subject, prompts, form, limits),
        layout.router,
    )


def _limits(seqs: int, tokens: int, engine: EngineOptions) -> SchedulerConfig:
    return SchedulerConfig(
        max_num_seqs=seqs,
        max_num_batched_tokens=tokens,
        enable_prefix_caching=engine.enable_prefix_caching,
    )


def _preset_names() -> str:
    return ", ".join(made.names[0] for made in presets.presets())
