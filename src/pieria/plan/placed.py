"""A model on cards that are not there: does it fit, what is left for the cache, and what do steps
take.

Knows models, clusters and the engine's own way of sizing its cache. Does not know requests.
"""

from dataclasses import dataclass

import torch

from pieria.config import Decision, format_size
from pieria.engine import resolve
from pieria.engine.runner_config import RunnerConfig
from pieria.engine.scheduler import SchedulerConfig
from pieria.hardware.cluster import ClusterSpec
from pieria.models.config import ModelConfig, MoeConfig
from pieria.parallel.mesh import Mesh
from pieria.plan.arrangement import Arrangement, arrangements
from pieria.plan.memory import RankMemory, weight_bytes
from pieria.plan.practice import ENGINE, Practice
from pieria.plan.precision import PRECISIONS, Precision
from pieria.plan.predict import Predictor
from pieria.plan.replica import Pool, Replica
from pieria.plan.routing import BALANCED, Routing
from pieria.plan.spread import Spread
from pieria.plan.trace import Traced

PAGE_TOKENS = 64
"""What paged kernels of GPUs want: vllm_musa has 64 for all that can, as FlashMLA does."""

MEMORY_FRACTION = 0.9
"""Of a device's memory that the engine may use; the rest is the driver's and others', as vLLM has
it.
"""

NARROWER = ("fp8", "int4")
"""Precisions that are proposed where a wider one does not fit."""

MOST_TRIES = 6
"""Cuts that are tried for a proposal."""


@dataclass(frozen=True)
class Subject:
    """What is placed, and how it is run. name: of the model, for messages.

    memory_fraction: of each card's memory that may be used. cache_fraction: of that, beside weights
    and intermediates, what the cache may take; cache_bytes: or so much.
    """

    name: str
    model: ModelConfig
    cluster: ClusterSpec
    practice: Practice = ENGINE
    routing: Routing = BALANCED
    page_tokens: int = PAGE_TOKENS
    memory_fraction: float = MEMORY_FRACTION
    max_model_len: int | None = None
    cache_fraction: float = 1.0
    cache_bytes: int | None = None

    @property
    def has_experts(self) -> bool:
        return any(isinstance(layer.mlp, MoeConfig) for layer in self.model.layers)

    @property
    def usable_bytes(self) -> int:
        """Of one card."""
        return int(self.cluster.device.memory.value * self.memory_fraction)


@dataclass(frozen=True)
class MemoryUse:
    """Bytes of a rank of one pipeline stage; free: what is kept for nothing."""

    stage: int
    weights: int
    activations: int
    buffers: int
    cache: int
    free: int
    reserved: int


@dataclass(frozen=True)
class Placed:
    """decisions: how large the cache is, and why."""

    subject: Subject
    arrangement: Arrangement
    precision: Precision
    predictor: Predictor
    replica: Replica
    memory: tuple[MemoryUse, ...]
    decisions: tuple[Decision, ...]

    def pool(self, name: str, router: str = "least_loaded") -> Pool:
        a = self.arrangement
        return Pool(name, self.replica, self.predictor, a.dp, a.together, router)

    def with_limits(self, scheduler: SchedulerConfig) -> "Placed":
        """The same with other limits of a step. ValueError if there is no room for them."""
        return _sized(self.subject, self.arrangement, self.precision, scheduler, self.predictor)

    @property
    def token_bytes(self) -> int:
        """What is remembered of a token by all ranks of one replica."""
        ranks = self.arrangement.tp
        page = sum(rank.need.page for rank in self.predictor.memory)
        return page * ranks * len(self.replica.windows) // self.replica.page_tokens

    @property
    def state_bytes(self) -> int:
        """What is remembered of a request besides its tokens, by all ranks of one replica."""
        ranks = self.arrangement.tp
        return ranks * sum(rank.need.state or 0 for rank in self.predictor.memory)


def placed(
    subject: Subject, arrangement: Arrangement, precision: Precision, scheduler: SchedulerConfig
) -> Placed:
    """ValueError, saying what would work, if it does not divide or fit."""
    try:
        predictor = Predictor(
            subject.model,
            arrangement.mesh,
            subject.cluster,
            precision,
            practice=subject.practice,
            routing=subject.routing,
            attention_dp=arrangement.together,
            whole_experts=arrangement.is_wide,
            page_tokens=subject.page_tokens,
            max_num_batched_tokens=scheduler.max_num_batched_tokens,
        )
    except ValueError as error:
        raise ValueError(f"{subject.name} as {arrangement}: {error}") from error
    return _sized(subject, arrangement, precision, scheduler, predictor)


def _sized(
    subject: Subject,
    arrangement: Arrangement,
    precision: Precision,
    scheduler: SchedulerConfig,
    predictor: Predictor,
) -> Placed:
    config = RunnerConfig(
        model=subject.name,
        memory_fraction=subject.cache_fraction,
        kv_cache_memory_bytes=subject.cache_bytes,
        block_size=subject.page_tokens,
        max_model_len=subject.max_model_len,
    )
    source = f"{subject.memory_fraction:g} of {subject.cluster.device.name}"
    try:
        sizes = [
            resolve.cache(
                config,
                scheduler,
                rank.need,
                free_bytes=subject.usable_bytes - rank.activations - rank.buffers,
                free_source=source,
            )
            for rank in predictor.memory
        ]
    except ValueError as error:
        needs = format_size(max(rank.weights for rank in predictor.memory))
        raise ValueError(
            f"{subject.name} in {precision.name} as {arrangement} does not fit: a card has"
            f" {format_size(subject.usable_bytes)} to use and its weights take {needs}"
            f" ({error})"
        ) from error
    least = min(sizes, key=lambda found: found.pages)
    replica = Replica(
        scheduler,
        least.pages,
        subject.page_tokens,
        min(found.max_model_len for found in sizes),
        predictor.layout.windows,
        min(found.states for found in sizes),
    )
    use = tuple(_use(subject, stage, rank, replica) for stage, rank in enumerate(predictor.memory))
    return Placed(subject, arrangement, precision, predictor, replica, use, least.decisions)


def _use(subject: Subject, stage: int, rank: RankMemory, replica: Replica) -> MemoryUse:
    cache = replica.pages * rank.need.page + replica.states * (rank.need.state or 0)
    used = rank.weights + rank.activations + rank.buffers + cache
    whole = int(subject.cluster.device.memory.value)
    return MemoryUse(
        stage,
        rank.weights,
        rank.activations,
        rank.buffers,
        cache,
        max(0, subject.usable_bytes - used),
        whole - subject.usable_bytes,
    )


def what_fits(
    subject: Subject, cards: int, precision: Precision, scheduler: SchedulerConfig
) -> str:
    """What would work instead of what did not: other cuts, fewer bytes a weight, more cards."""
    narrower = [
        PRECISIONS[n] for n in NARROWER if PRECISIONS[n].weight_bytes < precision.weight_bytes
    ]
    sizes = {}
    for form in (precision, *narrower):
        dtype: torch.dtype = getattr(torch, form.dtype)
        whole = Traced(subject.model, Mesh(), dtype, subject.page_tokens)
        sizes[form] = weight_bytes(whole, form, Spread())
    found = []
    for form in narrower:
        works = _first_that_works(subject, cards, form, scheduler, sizes[form])
        found += [] if works is None else [f"{works} in {form.name}"]
    for count in (cards * 2**i for i in range(8)):
        works = _first_that_works(subject, count, precision, scheduler, sizes[precision])
        if works is not None:
            found.append(f"{works} on {count} cards" if count > cards else str(works))
            break
    return ", ".join(found) or f"nothing on up to {cards * 2**7} cards"


def _first_that_works(
    subject: Subject, cards: int, precision: Precision, scheduler: SchedulerConfig, size: int
) -> Arrangement | None:
    """Of those that divide and fit, the one with the fewest cards a replica; size: of weights."""
    least = -(-size // subject.usable_bytes)
    tries = 0
    for candidate in arrangements(cards, has_experts=False):
        if candidate.replica_cards < least or candidate.pp > len(subject.model.layers):
            continue
        tries += 1
        try:
            placed(subject, candidate, precision, scheduler)
        except ValueError:
            if tries == MOST_TRIES:
                return None
        else:
            return candidate
    return None
