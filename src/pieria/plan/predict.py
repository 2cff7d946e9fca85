"""Seconds of a step, and bytes of a rank, of a model on a machine that need not be there.

Knows the model's description, its layout and a machine's numbers. Does not know requests beyond
their chunks, nor time: it says how long a step takes, and somebody's clock advances by that.

    predictor = Predictor(config, Mesh(tp=8), cluster)
    seconds = predictor(plan)              # some microseconds of work
    predictor.explain(plan)                # the same, traced, call by call, with sources
    predictor.memory                       # of a rank of each pipeline stage
    predictor.layout.windows               # page tables, for the real scheduler
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from operator import attrgetter
from typing import Any

import numpy as np
import torch

from pieria.engine.layout import Layout
from pieria.engine.plan import StepPlan
from pieria.hardware.cluster import ClusterSpec
from pieria.models.config import AttentionConfig, ModelConfig
from pieria.parallel.mesh import Mesh
from pieria.plan.coefficients import Term, step_works, terms
from pieria.plan.memory import RankMemory, rank_memory
from pieria.plan.practice import ENGINE, Practice
from pieria.plan.precision import PRECISIONS, Precision
from pieria.plan.recorded import RecordedSpans, RecordedTiming
from pieria.plan.routing import BALANCED, Routing
from pieria.plan.spans import Span, SpanTimer
from pieria.plan.spread import Spread
from pieria.plan.timing import Timing
from pieria.plan.trace import Traced
from pieria.plan.work import Attention, Exchange, Latents, Work

PAGE_TOKENS = 16

TOKENS, START, DRAW, READS = map(attrgetter, ("tokens", "start", "draw", "reads"))

BLOCK = 512
"""Numbers of tokens whose times are made at once."""


@dataclass(frozen=True)
class Line:
    """One call of an explained step. stage: of the pipeline.

    seconds: the least that the device allows for `flops` operations at the rate of the dtype `peak`
    and `bytes` moved or sent, over what was measured of `source`.
    """

    stage: int
    work: Work
    seconds: float
    source: str
    flops: float
    bytes: float
    peak: str


@dataclass(frozen=True)
class Explanation:
    """seconds: of the step. lines: its calls in order. extra: what more there is to the step, with
    its seconds: the host's share, launches, and less what runs beside something else.
    """

    seconds: float
    lines: tuple[Line, ...]
    extra: tuple[tuple[str, float], ...]


class Predictor:
    """Steps of one replica: `mesh` without its dp axis.

    Where ranks have requests of their own (`attention_dp`), a plan is that of one of them, and all
    others' are taken to be alike.
    """

    def __init__(
        self,
        config: ModelConfig,
        mesh: Mesh,
        cluster: ClusterSpec | RecordedTiming,
        precision: Precision = PRECISIONS["bfloat16"],
        *,
        practice: Practice = ENGINE,
        routing: Routing = BALANCED,
        attention_dp: int = 1,
        whole_experts: bool = False,
        page_tokens: int = PAGE_TOKENS,
        max_num_batched_tokens: int = 8192,
    ) -> None:
        """cluster: or what was recorded of the machine at hand, where `mesh` is one rank.

        max_num_batched_tokens: of a step, for which intermediates are counted.

        ValueError, naming the weight, if a cut over `mesh` does not divide, and if the cluster does
        not join that many cards.
        """
        self.mesh = replace(mesh, dp=1, rank=0)
        self.practice = practice
        self.page_tokens = page_tokens
        self.spread = Spread(mesh.tp, attention_dp, whole_experts)
        self.timing = (
            cluster
            if isinstance(cluster, RecordedTiming)
            else Timing(cluster, precision, routing, practice, self.spread.ranks)
        )
        if practice.repeats:
            config = repeated(config, mesh.tp)
        dtype: torch.dtype = getattr(torch, precision.dtype)
        held = precision.kv_dtype
        kv_dtype = None if held is None else getattr(torch, held)
        ranks = [i * self.mesh.size // self.mesh.pp for i in range(self.mesh.pp)]
        self.stages = tuple(
            _traced(config, replace(self.mesh, rank=rank), dtype, page_tokens, kv_dtype)
            for rank in ranks
        )
        self.layout: Layout = self.stages[0].layout
        self._keeps_states = any(spec.state for spec in self.layout.specs)
        self.memory: tuple[RankMemory, ...] = tuple(
            rank_memory(stage, precision, self.spread, page_tokens, max_num_batched_tokens)
            for stage in self.stages
        )
        self._compiled = tuple(
            _Stage(_terms(stage, self.spread, practice.fuses), self.timing) for stage in self.stages
        )

    def __call__(self, plan: StepPlan) -> float:
        """Seconds of the step. Log-probabilities of prompts are not counted."""
        chunks = plan.chunks
        queries = list(map(len, map(TOKENS, chunks)))
        starts = list(map(START, chunks))
        drawn = len(chunks) - list(map(DRAW, chunks)).count(None)
        read = len(chunks) - list(map(READS, chunks)).count(-1) if self._keeps_states else 0
        return self.seconds(queries, starts, drawn, read)

    step = __call__

    def seconds(self, queries: list[int], starts: list[int], drawn: int, read: int = 0) -> float:
        """Of a step that computes so many tokens of each request, from where they start.

        drawn: how many of the requests get a token. read: how many go on from a state.
        """
        seconds = 0.0
        for stage in self._compiled:
            seconds += stage.seconds(queries, starts, drawn, read)
        return seconds

    @property
    def launch_seconds(self) -> float:
        """Of the host, for a step that is not replayed from a graph."""
        return self.timing.launches(self.calls)

    @property
    def calls(self) -> int:
        """Of a step's forward passes with what makes tokens."""
        return sum(stage.kernels + stage.ending for stage in self._compiled)

    @property
    def notes(self) -> dict[str, int]:
        """What was not measured and what stands in for it; how often it was asked for."""
        return dict(self.timing.notes)

    def explain(self, plan: StepPlan) -> Explanation:
        """The step traced: every call with its seconds, and where they come from."""
        lines = []
        extra: list[tuple[str, float]] = []
        total = 0.0
        singles = all(len(chunk.tokens) == 1 for chunk in plan.chunks)
        for i, stage in enumerate(self.stages):
            computing = exchanging = 0.0
            count = 0
            for work in step_works(stage, plan.chunks, self.spread, self.practice.fuses):
                if is_nothing(work):
                    continue
                found = self.timing.of(work)
                numbers = float(found.flops), float(found.bytes), found.peak
                lines.append(Line(i, work, float(found.seconds), found.source, *numbers))
                count += self.timing.kernels(work)
                if isinstance(work, Exchange):
                    exchanging += lines[-1].seconds
                else:
                    computing += lines[-1].seconds
            took, more = self.timing.run(
                computing, exchanging, count, singles, plan.tokens, len(plan.chunks)
            )
            total += took
            extra += more
        return Explanation(total, tuple(lines), tuple(extra))


class _Stage:
    """The terms of one pipeline stage, summed as far as they can be before there is a plan."""

    def __init__(self, found: tuple[Term, ...], timing: Timing | RecordedTiming) -> None:
        found = tuple(term for term in found if not is_nothing(term.work))
        self.timing = timing
        self.spans: list[tuple[SpanTimer | RecordedSpans, int]] = []
        self.by_tokens: list[Term] = []
        self.by_draws: list[Term] = []
        self.by_more: list[Term] = []
        for term in found:
            if isinstance(term.work, Attention | Latents):
                self.spans.append((timing.spans(term.work), term.count))
            elif "D" in term.grows:
                self.by_draws.append(term)
            elif term.grows - {"T"}:
                self.by_more.append(term)
            else:
                self.by_tokens.append(term)
        self.kernels = sum(
            term.count * timing.kernels(term.work) for term in found if "D" not in term.grows
        )
        self.ending = sum(term.count * timing.kernels(term.work) for term in self.by_draws)
        self.windows = {t.window for t, _ in self.spans if t.window is not None}
        self._tokens: dict[int, tuple[list[float], list[float]]] = {}
        self._draws: dict[int, tuple[list[float], list[float]]] = {}

    def seconds(self, queries: list[int], starts: list[int], drawn: int, read: int) -> float:
        """Of a step with these chunks."""
        timing, count = self.timing, len(queries)
        tokens = sum(queries)
        block, at = divmod(tokens, BLOCK)
        if block not in self._tokens:
            self._tokens[block] = self._block(self.by_tokens, block, 0)
        computing, exchanging = (part[at] for part in self._tokens[block])
        kernels = self.kernels
        if drawn:
            block, at = divmod(drawn, BLOCK)
            if block not in self._draws:
                self._draws[block] = self._block(self.by_draws, block, 3)
            computing += self._draws[block][0][at]
            exchanging += self._draws[block][1][at]
            kernels += self.ending
        for term in self.by_more:
            features = tokens, count, read, drawn
            computing += term.count * float(timing.of(term.at(features)).seconds)
        singles = tokens == count
        if singles:
            context = sum(starts) + count
            prompts = []
            alone = starts
        else:
            pairs = list(zip(queries, starts, strict=True))
            alone = [s for q, s in pairs if q == 1]
            prompts = [(q, q + s) for q, s in pairs if q > 1]
            context = sum(alone) + len(alone)
        spans: dict[int | None, Span] = {None: Span(len(alone), context, context, prompts)}
        for window in self.windows:
            seen = sum([s + 1 if window is None or s < window else window for s in alone])
            spans[window] = Span(len(alone), context, seen, prompts)
        for timer, times in self.spans:
            computing += times * timer.seconds(spans[timer.window])
        return timing.run(computing, exchanging, kernels, singles, tokens, count)[0]

    def _block(
        self, found: list[Term], block: int, feature: int
    ) -> tuple[list[float], list[float]]:
        """Seconds of computing and exchanging for BLOCK numbers of tokens or of draws."""
        numbers = np.arange(block * BLOCK, (block + 1) * BLOCK, dtype=float)
        features: list[Any] = [0.0] * 4
        features[feature] = np.maximum(numbers, 1.0)
        sums = [np.zeros(BLOCK), np.zeros(BLOCK)]
        for term in found:
            took = self.timing.of(term.at(features)).seconds
            sums[isinstance(term.work, Exchange)] += term.count * took
        return sums[0].tolist(), sums[1].tolist()


@lru_cache(maxsize=16)
def _traced(
    config: ModelConfig,
    mesh: Mesh,
    dtype: torch.dtype,
    page_tokens: int,
    kv_dtype: torch.dtype | None,
) -> Traced:
    """The same for all devices."""
    return Traced(config, mesh, dtype, page_tokens, kv_dtype)


@lru_cache(maxsize=32)
def _terms(stage: Traced, spread: Spread, fuses: bool) -> tuple[Term, ...]:
    return terms(stage, spread, fuses)


def is_nothing(work: Work) -> bool:
    """An exchange of a rank with itself."""
    return isinstance(work, Exchange) and work.ranks == 1


def repeated(config: ModelConfig, tp: int) -> ModelConfig:
    """The model with key heads repeated, so that each of `tp` ranks has one of its own."""
    layers = []
    for layer in config.layers:
        mixer = layer.mixer
        if isinstance(mixer, AttentionConfig) and mixer.kv_heads < tp and not tp % mixer.kv_heads:
            mixer = replace(mixer, kv_heads=tp)
        layers.append(replace(layer, mixer=mixer))
    return replace(config, layers=tuple(layers))
