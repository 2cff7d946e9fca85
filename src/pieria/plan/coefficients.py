"""A step's time as a few sums: the model is traced once, and a plan then costs microseconds.

The calls of a step are the same whatever the plan; their numbers grow evenly with its tokens T,
requests R, states read S, and tokens drawn D, or, in attention, with queries and contexts. A few
traces tell how, and one more checks it. Knows works. Does not know devices.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from pieria.engine.plan import Chunk, Draw
from pieria.models.config import LatentConfig
from pieria.plan.spread import Spread
from pieria.plan.trace import Traced
from pieria.plan.work import Attention, Latents, Work, fused, works

FEATURES = ("T", "R", "S", "D")


@dataclass(frozen=True)
class Growing:
    """A number a + T t + R r + S s + D d of a step with T tokens, R requests and so on."""

    base: float
    slopes: tuple[float, float, float, float]

    def at(self, features: Sequence[Any]) -> Any:
        return self.base + sum(k * x for k, x in zip(self.slopes, features, strict=True) if k)

    @property
    def grows(self) -> tuple[str, ...]:
        return tuple(name for name, k in zip(FEATURES, self.slopes, strict=True) if k)


@dataclass(frozen=True)
class Term:
    """A kind of call, and how often it occurs. numbers: of its fields that grow."""

    work: Work
    numbers: tuple[tuple[str, Growing], ...]
    count: int = 1

    def at(self, features: Sequence[Any]) -> Work:
        """The call in one step; or in many, given arrays."""
        return replace(self.work, **{name: n.at(features) for name, n in self.numbers})

    @property
    def grows(self) -> frozenset[str]:
        return frozenset(f for _, number in self.numbers for f in number.grows)


def step_works(traced: Traced, chunks: Sequence[Chunk], spread: Spread, fuses: bool) -> list[Work]:
    """Every call of a step, in order."""
    dtype: torch.dtype = traced.model.dtype
    latents = {
        layer.mixer.kv_rank: (layer.mixer.nope_dim, layer.mixer.v_dim)
        for layer in traced.model.config.layers
        if isinstance(layer.mixer, LatentConfig)
    }
    made: list[Work] = []
    for calls, in_layers in zip(traced.step(chunks), (True, False), strict=True):
        found = works(calls, dtype, in_layers)
        made += fused(found) if fuses else [work for work, _ in found]
    for i, work in enumerate(made):
        if isinstance(work, Latents):
            nope_dim, v_dim = latents[work.rank]
            made[i] = replace(work, nope_dim=nope_dim, v_dim=v_dim)
    return spread.over(made, traced.model.config.hidden * dtype.itemsize)


def terms(traced: Traced, spread: Spread, fuses: bool) -> tuple[Term, ...]:
    """Of one rank. ValueError if an op's cost grows in another way than the formulas have it."""
    probes = [
        step_works(traced, chunks, spread, fuses)
        for chunks in (
            _chunks(traced, [(0, 2, True)]),
            _chunks(traced, [(0, 50, True)]),
            _chunks(traced, [(0, 25, True), (0, 25, False)]),
            _chunks(traced, [(0, 25, True), (25, 25, False)]),
            _chunks(traced, [(0, 25, True), (0, 25, True)]),
            _chunks(traced, [(7, 31, True), (0, 29, False), (3, 1, True), (9, 2, True)]),
        )
    ]
    found: Counter[Term] = Counter()
    for row in zip(*probes, strict=True):
        found[_term(row)] += 1
    return tuple(replace(term, count=count) for term, count in found.items())


CHECK = (63, 4, 3, 3)
"""T, R, S and D of the last probe."""


def _term(row: Sequence[Work]) -> Term:
    work = row[0]
    if isinstance(work, Attention | Latents):
        return Term(replace(work, queries=(), contexts=()), ())
    numbers = []
    for field in fields(work):
        values = [getattr(w, field.name) for w in row]
        if all(v == values[0] for v in values):
            continue
        small, large, two, read, drawn, last = values
        t, r = (large - small) / 48, two - large
        s, d = read - two, drawn - two
        growing = Growing(small - 2 * t - r - d, (t, r, s, d))
        if abs(growing.at(CHECK) - last) > 1e-9 * abs(last):
            raise ValueError(
                f"the {field.name} of {work.op} is {last} in a step of {CHECK} {FEATURES}, and"
                f" {growing.at(CHECK)} was expected: it does not grow evenly"
            )
        numbers.append((field.name, growing))
    zeros: dict[str, Any] = {name: 0 for name, _ in numbers}
    return Term(replace(work, **zeros), tuple(numbers))


def _chunks(traced: Traced, wanted: Sequence[tuple[int, int, bool]]) -> list[Chunk]:
    """Chunks of (start, tokens, whether the next is drawn)."""
    tables = len(traced.layout.windows)
    page = traced.page_tokens
    return [
        Chunk(
            str(i),
            start,
            (0,) * count,
            ((0,) * -(-(start + count) // page),) * tables,
            reads=0 if start else -1,
            writes=0,
            draw=Draw(0) if is_drawn else None,
        )
        for i, (start, count, is_drawn) in enumerate(wanted)
    ]
