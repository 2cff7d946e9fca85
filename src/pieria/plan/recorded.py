"""Seconds of calls and steps of this project's own runner on a machine that was recorded.

Knows a `Record`: roofline time / utilisation, interpolated in logarithms between what was measured.
Takes the place of `Timing` in a `Predictor`. Does not know models.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import sqrt
from typing import Any

import numpy as np

from pieria.ops.attention import visible_pairs
from pieria.plan.record import Attended, Chosen, Products, Record
from pieria.plan.routing import BALANCED
from pieria.plan.spans import Span
from pieria.plan.surfaces import experts_cost
from pieria.plan.tables import Array, Grid
from pieria.plan.timing import Seconds
from pieria.plan.work import Exchange, Experts, Latents, Product, Spans, Stream, Work


@dataclass(frozen=True)
class Weights:
    """Bytes of a model's. dense: that every step reads. experts: of which each token chooses the
    share `chosen`, all as often.
    """

    dense: float
    experts: float = 0.0
    chosen: float = 1.0

    def touched(self, tokens: Any) -> Any:
        """Share of experts that so many tokens choose."""
        return 1 - (1 - self.chosen) ** np.asarray(tokens, float)

    def read(self, tokens: Any) -> Any:
        """By a step of so many, or by several steps of as many together."""
        return self.dense + self.experts * self.touched(tokens)


LONGEST = 256
"""Steps after which an expert that was not chosen is taken to be in no cache."""


@dataclass
class RecordedTiming:
    """weights: what was read again a moment ago is still in the last cache, as far as what was read
    since then fits it: a step's weights since the step before, experts since they were last chosen.
    A call's rows stand for the tokens of its step. replays: steps of one token a request are
    replayed, as every call in them can be recorded, and so are those of `prompt` tokens of one
    request, as many as a step may have; 0: no such step. notes: what was not recorded and what
    stands in for it; how often it was asked for.
    """

    record: Record
    weights: Weights
    replays: bool = True
    prompt: int = 0
    notes: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._made: dict[Any, Any] = {}
        self.width = 4 if self.record.dtype == "float32" else 2

    def far(self, tokens: Any) -> Any:
        """How much of what every step reads comes from memory in steps of so many tokens."""
        return self.record.reread.share(self.weights.read(tokens))

    def _experts_far(self, tokens: Any) -> Any:
        """The same of experts, by how many steps ago one was last chosen."""
        tokens = np.maximum(np.asarray(tokens, float), 1.0)[..., None]
        ago = np.arange(1, LONGEST + 1)
        again = self.weights.touched(tokens)
        weight = again * (1 - again) ** (ago - 1)
        found = weight * self.record.reread.share(self.weights.read(tokens * ago))
        return found.sum(-1) + (1 - again[..., 0]) ** LONGEST

    def note(self, text: str) -> None:
        self.notes[text] = self.notes.get(text, 0) + 1

    def of(self, work: Work) -> Seconds:
        """ValueError for an exchange: one machine was recorded."""
        source = f"recorded on {self.record.machine}"
        if isinstance(work, Product):
            dtype = "float32" if work.place == "wide" else self.record.dtype
            cost = _product_cost(work.rows, work.outer * work.parts, work.inner, dtype)
            return Seconds(self._product(work, dtype), source, *cost, dtype)
        if isinstance(work, Experts):
            sizes = work.hidden, work.size, work.top, work.here, work.total
            cost = experts_cost(work.tokens, sizes, self.width, self.width, BALANCED)
            return Seconds(self._experts(work), source, *cost, self.record.dtype)
        if isinstance(work, Stream):
            return Seconds(self._stream(work), source, work.flops, work.bytes)
        if isinstance(work, Exchange):
            raise ValueError(f"{work.op} over {work.ranks} ranks: one machine was recorded")
        timer = self.spans(work)
        span = Span.of(work.queries, work.contexts, timer.window)
        return Seconds(timer.seconds(span), source, *timer.cost(span), self.record.dtype)

    def kernels(self, work: Work) -> int:
        """Each call is one of Python's."""
        return 1

    def launches(self, kernels: int) -> float:
        return kernels * self.record.host.call

    def run(
        self,
        computing: float,
        exchanging: float,
        kernels: int,
        singles: bool,
        tokens: int,
        requests: int,
    ) -> tuple[float, list[tuple[str, float]]]:
        """As `Timing.run` has it: a processor launches nothing beside what it computes."""
        host = self.record.host
        is_prompt = requests == 1 and 1 < tokens == self.prompt
        if self.replays and (singles or is_prompt):
            around = host.replayed + requests * host.replayed_each
            # Their places in the cache are found one by one, recorded or not.
            around += tokens * host.token if is_prompt else 0.0
            extra = [("the host, around a recorded step", around)]
        else:
            around = host.step + requests * host.each + tokens * host.token
            extra = [("calls", self.launches(kernels)), ("the host, around a step", around)]
        return computing + exchanging + sum(seconds for _, seconds in extra), extra

    def spans(self, work: Spans) -> "RecordedSpans":
        shape = replace(work, queries=(), contexts=())
        made: RecordedSpans = self.once(shape, lambda: RecordedSpans(self, shape))
        return made

    def _product(self, work: Product, dtype: str) -> Any:
        wanted = "gated_linear" if work.gated else "linear"
        rows = np.maximum(work.rows, 1)
        outer = work.outer * work.parts
        pair: Pair = self.once((wanted, dtype), lambda: self._products(wanted, dtype))
        least = self.roof(*_product_cost(rows, outer, work.inner, dtype))
        return least * pair(self.far(rows), rows, outer, work.inner)

    def roof(self, flops: Any, size: Any) -> Any:
        """The sum, for a processor's threads compute and wait in turns; it is only a shape."""
        return flops / self.record.peak + size / self.record.bandwidth

    def _products(self, op: str, dtype: str) -> "Pair":
        found = next((p for p in self.record.products if (p.op, p.dtype) == (op, dtype)), None)
        if found is None:
            self.note(f"{op} in {dtype}: as in {self.record.dtype}")
            found = next(p for p in self.record.products if p.op == op)
        axes = tuple(np.array(axis, float) for axis in (found.rows, found.outer, found.inner))
        rows, outer, inner = np.meshgrid(*axes, indexing="ij")
        least = self.roof(*_product_cost(rows, outer, inner, dtype))
        return Pair.of(axes, least, found)

    def _experts(self, work: Experts) -> Any:
        sizes = work.hidden, work.size, work.top, work.here, work.total

        def distance(one: Chosen) -> float:
            pairs = zip(
                (one.hidden, one.size, one.top, one.total), (*sizes[:3], work.total), strict=True
            )
            return float(sum(abs(np.log2(a / b)) for a, b in pairs))

        like = min(self.record.chosen, key=distance)
        if distance(like):
            self.note(
                f"experts {sizes} (hidden, size, top, here, total): as {like.top} of {like.total}"
            )
        found = like.hidden, like.size, like.top, like.total, like.total

        def make() -> Pair:
            tokens = np.array(like.tokens, float)
            flops, moved = experts_cost(tokens, found, self.width, self.width, BALANCED)
            return Pair.of((tokens,), self.roof(flops, moved), like)

        pair: Pair = self.once(found, make)
        tokens = np.maximum(work.tokens, 1)
        flops, moved = experts_cost(tokens, sizes, self.width, self.width, BALANCED)
        # Utilisation depends on the rows that an expert gets.
        alike = (work.top / work.total) / (like.top / like.total)
        return self.roof(flops, moved) * pair(self._experts_far(tokens), tokens * alike)

    def _stream(self, work: Stream) -> Any:
        curves = {curve.op: curve for curve in self.record.moved}
        if work.op not in curves:
            self.note(f"{work.op}: as fast as rms_norm")
        curve = curves.get(work.op, curves["rms_norm"])
        axis = np.array(curve.bytes)
        grid: Grid = self.once(curve.op, lambda: Grid((axis,), axis / np.array(curve.seconds)))
        size = np.maximum(work.bytes, 1.0)
        # A call takes no less than the smallest that was measured.
        return np.maximum(size, axis[0]) / grid(size)

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What was made for this key before, or is now."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


@dataclass(frozen=True)
class Pair:
    """How many times the roofline's time calls take, operands in the cache and in memory."""

    near: Grid
    far: Grid

    @classmethod
    def of(
        cls, axes: tuple[Array, ...], least: Array, table: Products | Attended | Chosen
    ) -> "Pair":
        """least: the roofline's seconds at each place of the table."""
        return cls(*(Grid(axes, least / np.array(s, float)) for s in (table.cached, table.seconds)))

    def __call__(self, far: Any, *place: Any) -> Any:
        """far: the share that comes from memory."""
        near = 1 / self.near(*place)
        return near + far * (1 / self.far(*place) - near)

    def at(self, far: float, first: float, second: float) -> float:
        """Of two axes at one place: the same, many times as fast."""
        near = 1 / self.near.at(first, second)
        return near + far * (1 / self.far.at(first, second) - near)


def _product_cost(rows: Any, outer: Any, inner: Any, dtype: str) -> tuple[Any, Any]:
    """(flops, bytes)."""
    width = 4 if dtype == "float32" else 2
    return 2.0 * rows * outer * inner, width * (outer * inner + rows * (outer + inner))


class RecordedSpans:
    """Attention of one shape, as `SpanTimer` gives it for cards."""

    def __init__(self, timing: RecordedTiming, work: Spans) -> None:
        """ValueError for latent attention, which is not recorded."""
        if isinstance(work, Latents):
            raise ValueError("latent attention is not recorded on this machine")
        self.work = work
        self.window = work.window
        self.timing = timing
        self.generation = self._pair("generation")
        self.context = self._pair("context")

    def _pair(self, phase: str) -> Pair:
        work, timing = self.work, self.timing

        def distance(one: Attended) -> float:
            # How many query heads share keys decides what a kernel can reuse.
            pairs = (
                (one.heads, work.heads),
                (one.groups, work.groups),
                (one.size, work.k_size),
                (one.heads / one.groups, work.heads / work.groups),
            )
            return float(sum(abs(np.log2(a / b)) for a, b in pairs))

        like = min((a for a in timing.record.attended if a.phase == phase), key=distance)
        if distance(like):
            shape = work.heads, work.groups, work.k_size
            timing.note(
                f"{phase} attention {shape} (heads, key heads, size): as"
                f" {(like.heads, like.groups, like.size)}"
            )
        axes = np.array(like.requests, float), np.array(like.context, float)
        requests, context = np.meshgrid(*axes, indexing="ij")
        if phase == "context":
            queries, pairs = requests * context, requests * context * (context + 1) / 2
        else:
            queries, pairs = requests, requests * context
        read = requests * context
        cost = self._cost(like.heads, like.groups, 2 * like.size, queries, pairs, read)
        least = timing.roof(*cost)
        return Pair.of(axes, least, like)

    def _cost(
        self, heads: int, groups: int, sizes: int, queries: Any, pairs: Any, read: Any
    ) -> tuple[Any, Any]:
        """(flops, bytes) over pairs of queries and keys, of which `read` are read."""
        moved = self.timing.width * sizes * (groups * read + heads * queries)
        return 2.0 * heads * sizes * pairs, moved

    def cost(self, span: Span) -> tuple[float, float]:
        """(flops, bytes) of all requests of a step."""
        flops, moved = self._singles(span)
        if span.prompts:
            more = self._prompts(span.prompts)
            return float(flops + more[0]), float(moved + more[1])
        return float(flops), float(moved)

    def seconds(self, span: Span) -> float:
        """Of all requests of a step."""
        seconds, timing = 0.0, self.timing
        tokens = span.singles + sum(queries for queries, _ in span.prompts)
        far: float = timing.once(("far", tokens), lambda: float(timing.far(tokens)))
        if span.singles:
            least = timing.roof(*self._singles(span))
            seconds = least * self.generation.at(far, span.singles, span.context / span.singles)
        if span.prompts:
            flops, moved, pairs = self._prompts(span.prompts)
            alike = max(1.0, sqrt(2 * pairs / len(span.prompts)))
            seconds += timing.roof(flops, moved) * self.context.at(far, len(span.prompts), alike)
        return float(seconds)

    def _singles(self, span: Span) -> tuple[Any, Any]:
        work = self.work
        sizes = work.k_size + work.v_size
        return self._cost(work.heads, work.groups, sizes, span.singles, span.seen, span.seen)

    def _prompts(self, prompts: Sequence[tuple[int, int]]) -> tuple[Any, Any, float]:
        """(flops, bytes, pairs)."""
        work = self.work
        pairs = sum(visible_pairs(q, s, self.window) for q, s in prompts)
        queries, read = sum(q for q, _ in prompts), sum(s for _, s in prompts)
        sizes = work.k_size + work.v_size
        return *self._cost(work.heads, work.groups, sizes, queries, pairs, read), pairs
