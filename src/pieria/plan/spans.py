"""Seconds of attention over the requests of one step, whose contexts all differ.

Knows pairs, remembered bytes and utilisation surfaces. Does not know models or plans.

Requests with a token each are one call of their number and mean context; all others are prompts:
one call of as many prompts from their beginning with as many pairs of queries and keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from pieria.ops.attention import oldest_visible, visible_pairs
from pieria.plan.precision import Precision
from pieria.plan.surfaces import Roof, Surfaces
from pieria.plan.tables import Grid
from pieria.plan.work import Attention, Latents, Spans


@dataclass(frozen=True)
class Span:
    """The requests of a step, as attention that looks back over a window sees them.

    singles: requests with one token. context, seen: of those, tokens up to it, and those of them
    that it sees, in sum. prompts: (queries, context) of every other request.
    """

    singles: int
    context: int
    seen: int
    prompts: Sequence[tuple[int, int]]

    @staticmethod
    def of(queries: Sequence[int], contexts: Sequence[int], window: int | None) -> "Span":
        single = [s for q, s in zip(queries, contexts, strict=True) if q == 1]
        return Span(
            len(single),
            sum(single),
            sum(single) if window is None else sum(min(s, window) for s in single),
            [(q, s) for q, s in zip(queries, contexts, strict=True) if q > 1],
        )


class SpanTimer:
    """Of attention of one shape on one device. expands: see `Practice`. width: of an activation."""

    def __init__(
        self,
        work: Spans,
        roof: Roof,
        surfaces: Surfaces,
        precision: Precision,
        expands: bool,
        width: int,
    ) -> None:
        self.work = work
        self.window = work.window if isinstance(work, Attention) else None
        self.bandwidth, self.peak = roof.bandwidth, roof.peak("bfloat16")
        self.width, self.token_bytes = width, work.token_bytes
        self.expands = expands and isinstance(work, Latents) and work.nope_dim > 0
        if precision.kv_dtype == "int8":
            surfaces.note("attention over keys and values in int8: as in float8_e4m3fn")
        self.generation: Grid
        self.context: Grid
        if isinstance(work, Attention):
            sizes = work.k_size + work.v_size
            shape = work.heads, work.groups, work.k_size, work.window or 0, precision.kv_bytes
            self.generation = surfaces.attention("generation", *shape)
            self.context = surfaces.attention("context", *shape)
            self.asked = work.heads * sizes
        else:
            sizes = work.size + work.rank
            latents = work.heads, precision.name, precision.kv_bytes
            self.generation = surfaces.latents("generation", *latents)
            self.context = (
                surfaces.latents("context", *latents)
                if self.expands
                # One key head of many numbers for all query heads: as over 128 numbers.
                else surfaces.attention("context", work.heads, 1, 128, 0, precision.kv_bytes)
            )
            self.asked = work.heads * sizes
        self.flops = 2 * work.heads * sizes

    def seconds(self, span: Span) -> float:
        """Of all requests of a step."""
        seconds = 0.0
        if span.singles:
            flops, moved = self._cost_of_singles(span)
            roof = max(flops / self.peak, moved / self.bandwidth)
            seconds = roof / self.generation.at(span.singles, span.context / span.singles)
        if span.prompts:
            flops, moved = self._cost_of_prompts(span.prompts)
            roof = max(flops / self.peak, moved / self.bandwidth)
            pairs = sum(visible_pairs(q, s, None) for q, s in span.prompts)
            alike = max(1.0, sqrt(2 * pairs / len(span.prompts)))
            seconds += roof / self.context.at(len(span.prompts), alike)
        return seconds

    def cost(self, span: Span) -> tuple[float, float]:
        """(flops, bytes) of all requests of a step."""
        flops, moved = self._cost_of_singles(span)
        if span.prompts:
            more = self._cost_of_prompts(span.prompts)
            return flops + more[0], moved + more[1]
        return flops, moved

    def _cost_of_singles(self, span: Span) -> tuple[float, float]:
        moved = span.seen * self.token_bytes
        return self.flops * span.seen, moved + span.singles * self.asked * self.width

    def _cost_of_prompts(self, prompts: Sequence[tuple[int, int]]) -> tuple[float, float]:
        window, work = self.window, self.work
        pairs = sum(visible_pairs(q, s, window) for q, s in prompts)
        queries = sum(q for q, _ in prompts)
        read = sum(s - oldest_visible(s - q, window) for q, s in prompts)
        if not self.expands:
            moved = read * self.token_bytes + queries * self.asked * self.width
            return self.flops * pairs, moved
        assert isinstance(work, Latents)
        k_size = work.nope_dim + work.size - work.rank
        flops = 2 * work.heads * (k_size + work.v_dim) * pairs
        # Keys and values of what was remembered before are made once more.
        before = sum(s - q for q, s in prompts)
        flops += 2 * work.heads * work.rank * (work.nope_dim + work.v_dim) * before
        return flops, work.heads * (k_size + work.v_dim) * (queries + read) * self.width
