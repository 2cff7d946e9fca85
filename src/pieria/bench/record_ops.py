"""Which ops are recorded, in which shapes, and on what operands.

Knows ops and their operands. Does not know how a call is timed, nor any model.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from pieria import ops
from pieria.bench.recorder import Recorder, Took
from pieria.bench.stand import PAGE_TOKENS
from pieria.ops.sample import Draws
from pieria.plan.record import Attended, Chosen, Moved, Products

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
OUTER = (256, 1024, 4096, 32768)
INNER = (256, 1024, 4096)
HEADS = ((8, 4, 64), (16, 8, 128), (12, 2, 64))
EXPERTS = ((512, 256, 4, 16), (1024, 512, 2, 8))
TOKENS = (1, 2, 4, 8, 16, 64, 256, 1024)
REQUESTS = {"generation": (1, 2, 4, 8, 16), "context": (1, 4, 16)}
CONTEXTS = {"generation": (16, 64, 256, 1024, 4096), "context": (8, 32, 128, 512, 2048)}
MOVED_TOKENS = (1, 4, 16, 64, 256, 1024, 2048)
MOST_SAMPLED = 32

MOST_FLOPS = 5e9
"""Of one call; what would take longer is not measured."""
MOST_KEYS = 256 << 20
"""Bytes of keys and values that one call sees."""

HIDDEN, SIZE, VOCABULARY = 768, 64, 32000
"""Of what the other ops are measured on."""


def products(recorder: Recorder) -> Iterator[Products]:
    """Plain and gated ones in the dtype; and plain ones in float32, as choices of experts are."""
    own = str(recorder.dtype).removeprefix("torch.")
    for op, dtype in dict.fromkeys((("linear", own), ("gated_linear", own), ("linear", "float32"))):
        outers = OUTER if dtype == own else OUTER[:1]
        curves = {
            (o, i): _product(recorder, op, getattr(torch, dtype), o, i)
            for o, i in product(outers, INNER)
        }

        def grid(of: Callable[[Took], float], curves: Any = curves, outers: Any = outers) -> Any:
            return tuple(
                tuple(tuple(_of(of, curves[o, i][r]) for i in INNER) for o in outers)
                for r in range(len(ROWS))
            )

        yield Products(op, dtype, ROWS, outers, INNER, grid(_memory), grid(_cache))


def _memory(took: Took) -> float:
    return took.memory


def _cache(took: Took) -> float:
    return took.cache


def _of(of: Callable[[Took], float], took: Took | None) -> float | None:
    return None if took is None else of(took)


def _product(
    recorder: Recorder, op: str, dtype: torch.dtype, outer: int, inner: int
) -> list[Took | None]:
    """For each number of rows."""
    turns = recorder.turns(outer * inner * dtype.itemsize)
    if op == "linear":
        weight = recorder.random(outer, inner).to(dtype)
        weights: list[Any] = [(ops.linear.pack(weight),) for _ in range(turns)]
    else:
        weight = recorder.random(outer // 2, inner).to(dtype)
        gate = ops.gated_linear.pack
        weights = [(gate(weight), gate(weight)) for _ in range(turns)]
    found: list[Took | None] = []
    for rows in ROWS:
        flops = 2.0 * rows * outer * inner
        if flops > MOST_FLOPS:
            found.append(None)
            continue
        x = recorder.random(rows, inner).to(dtype)
        found.append(recorder.took(partial(_multiply, op, x, weights), turns, flops))
    return found


def _multiply(op: str, x: Tensor, weights: Any, i: int) -> Tensor:
    multiply = ops.linear if op == "linear" else ops.gated_linear
    made: Tensor = multiply(x, *weights[i])
    return made


def attended(recorder: Recorder) -> Iterator[Attended]:
    for phase, heads in product(REQUESTS, HEADS):
        requests, contexts = REQUESTS[phase], CONTEXTS[phase]
        found = [[_attention(recorder, phase, heads, r, c) for c in contexts] for r in requests]
        memory = tuple(tuple(_of(_memory, took) for took in row) for row in found)
        cache = tuple(tuple(_of(_cache, took) for took in row) for row in found)
        yield Attended(phase, *heads, requests, contexts, memory, cache)


def _attention(
    recorder: Recorder, phase: str, shape: tuple[int, int, int], requests: int, context: int
) -> Took | None:
    """Of requests whose pages are in order."""
    heads, groups, size = shape
    queries = context if phase == "context" else 1
    flops = 4.0 * heads * size * requests * queries * context
    pages = -(-context // PAGE_TOKENS)
    each = 2 * requests * pages * PAGE_TOKENS * groups * size * recorder.dtype.itemsize
    if flops > MOST_FLOPS / 4 or each > MOST_KEYS:
        return None
    turns = recorder.turns(each)
    cache = (turns * requests * pages, PAGE_TOKENS, groups, size)
    k, v = recorder.random(*cache), recorder.random(*cache)
    pagings = []
    for turn in range(turns):
        first = turn * requests
        table = [range((first + r) * pages, (first + r + 1) * pages) for r in range(requests)]
        pagings.append(ops.Paging.of(table, [queries] * requests, [context] * requests))
    q = recorder.random(requests * queries, heads, size)

    def call(i: int) -> Tensor:
        return ops.paged_attention(q, k, v, pagings[i], scale=size**-0.5, window=None)

    return recorder.took(call, turns, flops)


def chosen(recorder: Recorder) -> Iterator[Chosen]:
    generator = torch.Generator().manual_seed(0)
    for hidden, size, top, total in EXPERTS:
        turns = recorder.turns(3 * total * size * hidden * recorder.dtype.itemsize)
        shapes = ((total, size, hidden), (total, size, hidden), (total, hidden, size))
        weights = [recorder.random(*shape) for shape in shapes]
        stacks = [[ops.experts.pack(weight) for weight in weights] for _ in range(turns)]
        found = []
        for tokens in TOKENS:
            x = recorder.random(tokens, hidden)
            shares = torch.full((tokens, top), 1 / top)
            experts = torch.rand(tokens, total, generator=generator).topk(top).indices
            call = partial(_experts, x, shares, experts, stacks)
            found.append(recorder.took(call, turns, 6.0 * tokens * top * hidden * size))
        memory, cache = tuple(map(_memory, found)), tuple(map(_cache, found))
        yield Chosen(hidden, size, top, total, TOKENS, memory, cache)


def _experts(x: Tensor, weights: Tensor, experts: Tensor, stacks: Any, i: int) -> Tensor:
    return ops.experts(x, weights, experts, *stacks[i], activation="silu")


def moved(recorder: Recorder) -> Iterator[Moved]:
    heads = HIDDEN // SIZE
    norm = recorder.random(HIDDEN)
    table = ops.embedding.pack(recorder.random(VOCABULARY, HIDDEN))
    angles = torch.rand(SIZE // 2)
    count = -(-max(MOVED_TOKENS) // PAGE_TOKENS)
    pages = recorder.random(count, PAGE_TOKENS, heads, SIZE)

    def calls(tokens: int) -> dict[str, Callable[[], Any]]:
        x, y = recorder.random(tokens, HIDDEN), recorder.random(tokens, HIDDEN)
        positions = torch.arange(tokens)
        cos, sin = ops.rotary(positions, angles, 1.0)
        rows = x.view(tokens, heads, SIZE)
        logits = torch.rand(tokens, 64)
        made: dict[str, Callable[[], Any]] = {
            "rotary": lambda: ops.rotary(positions, angles, 1.0),
            "embedding": lambda: ops.embedding(positions, table),
            "rms_norm": lambda: ops.rms_norm(x, norm, 1e-5),
            "add_rms_norm": lambda: ops.add_rms_norm(x, y, norm, 1e-5),
            "rope": lambda: ops.rope(rows, cos, sin),
            "kv_write": lambda: ops.kv_write(pages, pages, rows, rows, positions),
            "route": lambda: ops.route(logits, top=4, score="softmax", renormalise=True),
            "cast": lambda: ops.cast(x, torch.float32),
            "add": lambda: ops.add(x, y),
        }
        if tokens <= MOST_SAMPLED:
            scores, keys = recorder.random(tokens, VOCABULARY), torch.zeros(tokens).long()
            made["sample"] = lambda: ops.sample(scores, Draws(keys))
        return made

    found: dict[str, list[tuple[float, float]]] = {}
    for tokens in MOVED_TOKENS:
        for name, call in calls(tokens).items():
            with ops.trace() as traced:
                call()
            size = float(traced[0].cost.bytes)
            found.setdefault(name, []).append((size, recorder.short(call)))
    for name, points in found.items():
        yield Moved(name, tuple(b for b, _ in points), tuple(s for _, s in points))
