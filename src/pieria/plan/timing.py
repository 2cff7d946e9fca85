"""Seconds of one call on one card of a cluster: roofline time / utilisation.

Knows works, formats and what a device reaches (`surfaces`, `collectives`). Does not know models or
plans.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pieria.hardware.cluster import ClusterSpec
from pieria.plan.collectives import LOW_LATENCY_TOKENS, Collectives
from pieria.plan.practice import Practice
from pieria.plan.precision import Precision
from pieria.plan.routing import Routing
from pieria.plan.spans import Span, SpanTimer
from pieria.plan.surfaces import Roof, Surfaces, experts_cost, stream_seconds
from pieria.plan.work import (
    Attention,
    Exchange,
    Experts,
    Latents,
    Product,
    Spans,
    Stream,
    Work,
)

LEAST = 32
"""The least size of a matrix that was measured; a narrower one takes no less."""


@dataclass(frozen=True)
class Seconds:
    """seconds: a number, or an array where the work's numbers are arrays. source: of what was
    measured.

    flops, bytes: what is computed, and moved from and to memory, or sent. peak: the dtype at whose
    rate it is computed; empty for what moves bytes alone.
    """

    seconds: Any
    source: str
    flops: Any
    bytes: Any
    peak: str = ""


class Timing:
    """What calls take on each card of `cluster`."""

    def __init__(
        self,
        cluster: ClusterSpec,
        precision: Precision,
        routing: Routing,
        practice: Practice,
        ranks: int = 1,
    ) -> None:
        """ranks: cards that exchange with each other, the most in any exchange."""
        self.cluster = cluster
        self.precision = precision
        self.routing = routing
        self.practice = practice
        self.roof = Roof(cluster.device)
        self.surfaces = Surfaces(cluster.device)
        self.collectives = Collectives(cluster, practice.one_shot)
        reach = cluster.tiers.index(cluster.fabric(ranks)) + 1
        self.copy_engines = all(tier.link.copy_engines for tier in cluster.tiers[:reach])
        self._spans: dict[Spans, SpanTimer] = {}
        self.width = 4 if precision.dtype == "float32" else 2
        native = cluster.device.peak(precision.peak) is not None
        self.products = precision.name if native else "bfloat16"
        if self.products == "fp8_block" and practice.tuned_blocks:
            self.products = "fp8"
        if not native:
            self.surfaces.note(
                f"{cluster.device.name} does not multiply {precision.peak}: weights are widened"
            )

    @property
    def notes(self) -> dict[str, int]:
        """What was not measured and what stands in for it; how often it was asked for."""
        return self.surfaces.notes

    def of(self, work: Work) -> Seconds:
        """ValueError if the cluster does not join as many cards as an exchange needs."""
        if isinstance(work, Exchange):
            size = work.bytes * self._sent_share(work)
            took = self.collectives.seconds(work.op, size, work.ranks, work.stride, work.copies)
            source = f"{work.op} over {work.ranks} ranks, as measured on {self.collectives.like}"
            return Seconds(took, source, 0.0, size)
        if isinstance(work, Stream):
            took = stream_seconds(work.bytes, self.roof.bandwidth)
            return Seconds(took, "0.8 of the bandwidth, and 3 us", work.flops, work.bytes)
        if isinstance(work, Product):
            return self._product(work)
        if isinstance(work, Experts):
            return self._experts(work)
        timer = self.spans(work)
        span = Span.of(work.queries, work.contexts, timer.window)
        source = f"attention as measured on {self.surfaces.like}"
        return Seconds(timer.seconds(span), source, *timer.cost(span), "bfloat16")

    def _sent_share(self, work: Exchange) -> float:
        """Tokens go to experts in FP8, scales of 128 numbers beside them, where these multiply in
        it (deepseek-ai/DeepEP, README: dispatch in FP8, combine in BF16).
        """
        if work.op == "dispatch" and self.precision.peak == "float8_e4m3fn":
            return (1 + 4 / 128) / self.width
        return 1.0

    def kernels(self, work: Work) -> int:
        """How many launches a call is for engines: of what is not in `work` as a call of its own.

        Inputs of products in 8 bits are rounded and scaled first; keys and values of latents are
        made, joined and written.
        """
        if isinstance(work, Product):
            rounded = work.place == "layer" and self.precision.weight_bytes < 2
            return 1 + rounded + work.gated
        if isinstance(work, Experts):
            return self.practice.expert_launches
        if isinstance(work, Latents):
            return 6
        return 2 if isinstance(work, Attention) else 1

    def launches(self, kernels: int) -> float:
        """Seconds of the host for so many kernels that are launched one by one."""
        launch, device = self.practice.launch_seconds, self.cluster.device
        if launch is None:
            launch = device.launch.value if device.launch else 0.0
        return kernels * launch

    def run(
        self,
        computing: float,
        exchanging: float,
        kernels: int,
        singles: bool,
        tokens: int,
        requests: int,
    ) -> tuple[float, list[tuple[str, float]]]:
        """Seconds of a step whose calls take so long, and what they are besides.

        kernels: how many there are. singles: whether every request has one token.
        """
        practice, device = self.practice, self.cluster.device
        extra: list[tuple[str, float]] = []
        seconds = computing + exchanging
        if practice.overlap and exchanging:
            beside = practice.overlap * min(computing, exchanging * (1 - self._taken(tokens)))
            extra.append(("exchanged while computing", -beside))
            seconds -= beside
        if singles and tokens <= practice.graph_tokens:
            replay = device.replay.value if device.replay else 0.0
            extra.append(("start of a captured graph", replay))
            seconds += replay
        else:
            launching = self.launches(kernels)
            if launching > seconds:
                extra.append(("waiting for launches", launching - seconds))
                seconds = launching
        host = practice.host_seconds + practice.host_each * requests
        if host:
            extra.append(("the host, between steps", host))
        return seconds + host, extra

    def _taken(self, tokens: int) -> float:
        """The share of computing that exchanges beside it take, in a step of so many tokens."""
        is_free = self.copy_engines or tokens <= LOW_LATENCY_TOKENS
        return 0.0 if is_free else self.practice.exchange_units

    def spans(self, work: Spans) -> SpanTimer:
        """What times attention of this shape, whatever its queries and contexts."""
        shape = replace(work, queries=(), contexts=())
        if shape not in self._spans:
            self._spans[shape] = SpanTimer(
                shape, self.roof, self.surfaces, self.precision, self.practice.expands, self.width
            )
        return self._spans[shape]

    def _product(self, work: Product) -> Seconds:
        in_format = work.place == "layer" and not self.precision.experts_only
        weight = self.precision.weight_bytes if in_format else self.width
        outer, inner = max(work.outer * work.parts, LEAST), max(work.inner, LEAST)
        rows = np.maximum(work.rows, 1)
        size = weight * outer * inner
        size = size + self.width * rows * (outer + work.parts * inner)
        flops = 2.0 * rows * outer * inner
        peak = self.precision.peak if in_format else "bfloat16"
        roof = self.roof.seconds(flops, size, peak)
        name = self.products if in_format else "bfloat16"
        seconds = roof / self.surfaces.product(name)(rows, outer, inner)
        if work.gated:
            moved = 1.5 * self.width * rows * outer
            seconds = seconds + stream_seconds(moved, self.roof.bandwidth)
        source = f"products in {name} as measured on {self.surfaces.like}"
        return Seconds(seconds, source, flops, size, peak)

    def _experts(self, work: Experts) -> Seconds:
        sizes = work.hidden, work.size, work.top, work.here, work.total
        tokens = np.maximum(work.tokens, 1)
        flops, moved = experts_cost(
            tokens, sizes, self.precision.weight_bytes, self.width, self.routing
        )
        roof = self.roof.seconds(flops, moved, self.precision.peak)
        surface, scale = self.surfaces.experts(self.products, self.routing, sizes)
        seconds = roof / surface(tokens * scale)
        if self.practice.grouped:
            seconds = np.minimum(seconds, self._grouped(work))
        source = f"experts in {self.products} as measured on {self.surfaces.like}"
        return Seconds(seconds, source, flops, moved, self.precision.peak)

    def _grouped(self, work: Experts) -> Any:
        """Of experts whose rows stand together, as DeepGEMM's README has it: 8 x 4096 rows are
        multiplied at 1288 TFLOPS where 4096 by themselves are at 1304.
        """
        tokens = np.maximum(work.tokens, 1)
        used = self.routing.touched(tokens, work.top, work.here, work.total)
        pairs = tokens * (work.top * work.here / work.total)
        rows = np.maximum(pairs / used, 1)
        grid = self.surfaces.product(self.products)
        seconds = 0.0
        for outer, inner in ((2 * work.size, work.hidden), (work.hidden, work.size)):
            size = used * outer * inner * self.precision.weight_bytes
            size = size + self.width * pairs * (outer + inner)
            flops = 2.0 * pairs * outer * inner
            roof = self.roof.seconds(flops, size, self.precision.peak)
            seconds = seconds + roof / grid(rows, used * outer, inner)
        seconds = seconds * self.routing.busiest(work.total // work.here, work.total)
        # Rows are gathered, activated, and added up.
        for width in (2 * work.hidden, 3 * work.size, 2 * work.hidden):
            seconds = seconds + stream_seconds(self.width * pairs * width, self.roof.bandwidth)
        return seconds
