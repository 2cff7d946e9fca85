"""`pieria bench ops --record`: what operators and the host take here, as a table for the planner.

Knows ops, the recordings that replay them, and a clock. Models are not measured, but for two small
ones of which only what is not an op's is kept. Operands are taken in turns from more memory than
inner caches hold, as a model's weights are.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from pieria import ops
from pieria.bench.drive import Load, drive
from pieria.bench.stand import PAGE_TOKENS, described, records, stand
from pieria.clock import Clock
from pieria.engine.place import use_threads
from pieria.engine.plan import Runner, StepPlan, StepResult
from pieria.engine.scheduler import SchedulerConfig
from pieria.hardware import cpu, devices
from pieria.hardware.spec import DeviceSpec
from pieria.ops.sample import Draws
from pieria.parallel.mesh import Mesh
from pieria.plan.practice import PIERIA
from pieria.plan.precision import PRECISIONS
from pieria.plan.predict import Predictor
from pieria.plan.record import Attended, Chosen, Host, Moved, Products, Record
from pieria.plan.recorded import RecordedTiming

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
OUTER = (256, 1024, 4096, 32768)
INNER = (256, 1024, 4096)
HEADS = ((8, 4, 64), (16, 8, 128), (12, 2, 64))
EXPERTS = ((512, 256, 4, 16), (1024, 512, 2, 8))
TOKENS = (1, 2, 4, 8, 16, 64, 256, 1024)

TURNS_BYTES = 64 << 20
"""Of operands that take turns."""
MOST_FLOPS = 5e9
"""Of one call; what would take longer is not measured."""
SAMPLE_FLOPS = 5e8
SAMPLES = 5
REPLAY_SECONDS = 2e-3

Call = Callable[[int], Any]
"""The op with the operands whose turn it is."""


class Recorder:
    """Times calls as a recorded step makes them, or from Python where they cannot be recorded."""

    def __init__(self, clock: Clock, dtype: str) -> None:
        self.clock = clock
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.arena = ops.service("cpu", "Arena")()
        self.record = ops.service("cpu", "record")

    def seconds(self, call: Call, count: int) -> float:
        """Of one call: the median of samples, each of `count` calls or more."""
        with torch.inference_mode():
            call(0)
            with self.record(self.arena, lambda: 0) as recording:
                for i in range(count):
                    call(i)
            if recording.obstacle is None:
                return self._median(recording.replay) / count

            def every() -> None:
                for i in range(count):
                    call(i)

            return self._median(every) / count

    def _median(self, run: Callable[[], None]) -> float:
        once = self._timed(run, 1)
        repeats = max(1, round(REPLAY_SECONDS / once))
        return median(self._timed(run, repeats) for _ in range(SAMPLES))

    def _timed(self, run: Callable[[], None], repeats: int) -> float:
        begun = self.clock.now()
        for _ in range(repeats):
            run()
        return (self.clock.now() - begun) / repeats

    def random(self, *shape: int) -> Tensor:
        return torch.empty(shape).uniform_(-1, 1).to(self.dtype)


def record(limits: DeviceSpec, dtype: str, clock: Clock, console: Console | None = None) -> Record:
    """Of the processor, with all threads that serving uses; takes some minutes.

    limits: of the same machine, measured. Progress goes to `console`. ValueError if its kernels
    cannot be recorded.
    """
    device = devices.find("cpu")
    ops.use(*device.backends)
    if ops.service("cpu", "record") is None:
        raise ValueError("the C++ kernels were not built, and nothing else is recorded")
    threads, isa = use_threads(None, "auto", "cpu", 1)
    recorder = Recorder(clock, dtype)
    assert limits.bandwidth is not None
    peak = limits.flops.get(dtype, limits.flops["float32"]).value
    parts: tuple[tuple[str, Callable[[], list[Any]]], ...] = (
        ("products", lambda: list(_products(recorder, dtype))),
        ("attention", lambda: list(_attended(recorder))),
        ("experts", lambda: list(_chosen(recorder))),
        ("others", lambda: list(_moved(recorder))),
    )
    found = []
    with Progress(console=console, transient=True, disable=console is None) as progress:
        task = progress.add_task("", total=len(parts) + 1)
        for name, part in parts:
            progress.update(task, description=name)
            found.append(tuple(part()))
            progress.advance(task)
        progress.update(task, description="the host")
        products, attended, chosen, moved = found
        made = Record(
            cpu.processor().name,
            int(threads.value),
            isa.value,
            dtype,
            limits.bandwidth.value,
            peak,
            products,
            attended,
            chosen,
            moved,
            NOTHING,
        )
        host = _host(made, clock)
    return replace(made, host=host)


def _products(recorder: Recorder, dtype: str) -> Iterator[Products]:
    for op, kind in (("linear", dtype), ("gated_linear", dtype), ("linear", "float32")):
        if (op, kind) == ("linear", "float32") and dtype == "float32":
            continue
        wide = Recorder(recorder.clock, kind)
        outers = OUTER if kind == dtype else OUTER[:1]
        inners = INNER
        curves = {(o, i): _product(wide, op, o, i) for o, i in product(outers, inners)}
        yield Products(
            op,
            kind,
            ROWS,
            outers,
            inners,
            tuple(
                tuple(tuple(curves[o, i][r] for i in inners) for o in outers)
                for r in range(len(ROWS))
            ),
        )


def _product(recorder: Recorder, op: str, outer: int, inner: int) -> list[float | None]:
    each = outer * inner * recorder.dtype.itemsize
    copies = max(1, min(64, TURNS_BYTES // each))
    if op == "linear":
        weight = recorder.random(outer, inner)
        weights: list[Any] = [(ops.linear.pack(weight),) for _ in range(copies)]
    else:
        weight = recorder.random(outer // 2, inner)
        gate = ops.gated_linear.pack
        weights = [(gate(weight), gate(weight)) for _ in range(copies)]
    found: list[float | None] = []
    for rows in ROWS:
        flops = 2 * rows * outer * inner
        if flops > MOST_FLOPS:
            found.append(None)
            continue
        x = recorder.random(rows, inner)
        count = max(1, min(copies, round(SAMPLE_FLOPS / flops)))
        found.append(recorder.seconds(partial(_multiply, op, x, weights), count))
    return found


def _multiply(op: str, x: Tensor, weights: Any, i: int) -> Tensor:
    multiply = ops.linear if op == "linear" else ops.gated_linear
    made: Tensor = multiply(x, *weights[i % len(weights)])
    return made


def _attended(recorder: Recorder) -> Iterator[Attended]:
    for phase, (heads, groups, size) in product(("generation", "context"), HEADS):
        requests = (1, 2, 4, 8, 16) if phase == "generation" else (1, 4, 16)
        contexts = (16, 64, 256, 1024, 4096) if phase == "generation" else (8, 32, 128, 512, 2048)
        yield Attended(
            phase,
            heads,
            groups,
            size,
            requests,
            contexts,
            tuple(
                tuple(_attention(recorder, phase, heads, groups, size, r, c) for c in contexts)
                for r in requests
            ),
        )


def _attention(
    recorder: Recorder, phase: str, heads: int, groups: int, size: int, requests: int, context: int
) -> float | None:
    queries = context if phase == "context" else 1
    if 4 * heads * size * requests * queries * context > MOST_FLOPS / 4:
        return None
    width = -(-context // PAGE_TOKENS)
    pages = requests * width
    each = 2 * pages * PAGE_TOKENS * groups * size * recorder.dtype.itemsize
    copies = max(1, min(16, TURNS_BYTES // each))
    shape = pages, PAGE_TOKENS, groups, size
    caches = [(recorder.random(*shape), recorder.random(*shape)) for _ in range(copies)]
    table = [list(range(r * width, (r + 1) * width)) for r in range(requests)]
    paging = ops.Paging.of(table, [queries] * requests, [context] * requests)
    q = recorder.random(requests * queries, heads, size)
    call = partial(_attend, q, caches, paging, size**-0.5)
    return recorder.seconds(call, copies)


def _attend(q: Tensor, caches: Any, paging: ops.Paging, scale: float, i: int) -> Tensor:
    k, v = caches[i % len(caches)]
    return ops.paged_attention(q, k, v, paging, scale=scale, window=None)


def _chosen(recorder: Recorder) -> Iterator[Chosen]:
    generator = torch.Generator().manual_seed(0)
    for hidden, size, top, total in EXPERTS:
        each = 3 * total * size * hidden * recorder.dtype.itemsize
        copies = max(1, TURNS_BYTES // each)
        shapes = ((total, size, hidden), (total, size, hidden), (total, hidden, size))
        weights = [recorder.random(*shape) for shape in shapes]
        stacks = [[ops.experts.pack(weight) for weight in weights] for _ in range(copies)]
        seconds = []
        for tokens in TOKENS:
            x = recorder.random(tokens, hidden)
            shares = torch.full((tokens, top), 1 / top)
            drawn = torch.rand(tokens, total, generator=generator)
            experts = drawn.topk(top).indices
            call = partial(_experts, x, shares, experts, stacks)
            seconds.append(recorder.seconds(call, max(1, min(copies, 2048 // tokens))))
        yield Chosen(hidden, size, top, total, TOKENS, tuple(seconds))


def _experts(x: Tensor, weights: Tensor, experts: Tensor, stacks: Any, i: int) -> Tensor:
    return ops.experts(x, weights, experts, *stacks[i % len(stacks)], activation="silu")


HIDDEN, SIZE, VOCABULARY = 768, 64, 32000
"""Of what the other ops are measured on."""


def _moved(recorder: Recorder) -> Iterator[Moved]:
    heads = HIDDEN // SIZE
    norm, table = recorder.random(HIDDEN), recorder.random(VOCABULARY, HIDDEN)
    angles = torch.rand(SIZE // 2)
    pages = recorder.random(2048 // PAGE_TOKENS, PAGE_TOKENS, heads, SIZE)

    def calls(tokens: int) -> dict[str, Call]:
        x, y = recorder.random(tokens, HIDDEN), recorder.random(tokens, HIDDEN)
        positions = torch.arange(tokens)
        cos, sin = ops.rotary(positions, angles, 1.0)
        rows = x.view(tokens, heads, SIZE)
        logits = torch.rand(tokens, 64)
        made: dict[str, Call] = {
            "rotary": lambda i: ops.rotary(positions, angles, 1.0),
            "embedding": lambda i: ops.embedding(positions, table),
            "rms_norm": lambda i: ops.rms_norm(x, norm, 1e-5),
            "add_rms_norm": lambda i: ops.add_rms_norm(x, y, norm, 1e-5),
            "rope": lambda i: ops.rope(rows, cos, sin),
            "kv_write": lambda i: ops.kv_write(pages, pages, rows, rows, positions),
            "route": lambda i: ops.route(logits, top=4, score="softmax", renormalise=True),
            "cast": lambda i: ops.cast(x, torch.float32),
            "add": lambda i: x + y,
        }
        if tokens <= 32:
            scores, keys = (
                recorder.random(tokens, VOCABULARY),
                torch.zeros(tokens, dtype=torch.int64),
            )
            made["sample"] = lambda i: ops.sample(scores, Draws(keys))
        return made

    found: dict[str, list[tuple[float, float]]] = {}
    for tokens in (1, 4, 16, 64, 256, 1024, 2048):
        for name, call in calls(tokens).items():
            found.setdefault(name, []).append((_bytes(name, tokens), recorder.seconds(call, 4)))
    for name, points in found.items():
        yield Moved(name, tuple(b for b, _ in points), tuple(s for _, s in points))


def _bytes(name: str, tokens: int) -> float:
    """As the op's cost counts them (bfloat16)."""
    row = 2 * HIDDEN
    return float(
        {
            "rotary": tokens * (8 + 2 * 4 * SIZE // 2) + 4 * SIZE // 2,
            "embedding": tokens * (8 + 2 * row),
            "rms_norm": 2 * tokens * row + row,
            "add_rms_norm": 4 * tokens * row + row,
            "rope": 2 * tokens * row + tokens * 4 * SIZE,
            "kv_write": 4 * tokens * row + 8 * tokens,
            "route": tokens * (4 * 64 + 4 * 12),
            "cast": 3 * tokens * row,
            "add": 3 * tokens * row,
            "sample": tokens * (2 * VOCABULARY + 8),
        }[name]
    )


SMALL: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1024,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
ROUTED: dict[str, Any] = {
    **SMALL,
    "architectures": ["Qwen3MoeForCausalLM"],
    "hidden_size": 512,
    "intermediate_size": 1024,
    "moe_intermediate_size": 256,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "norm_topk_prob": True,
    "num_attention_heads": 8,
    "head_dim": 64,
}
"""Its experts are among `EXPERTS`, so that they are known."""
NOTHING = Host(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
LAYERS = (2, 8)
USERS = (1, 2, 4, 8, 16)
PROMPTS = (8, 32, 128)

Feature = tuple[float, ...]


class _Noted:
    """A runner that notes each plan and when it was done."""

    def __init__(self, runner: Runner, clock: Clock) -> None:
        self.runner, self.clock = runner, clock
        self.plans: list[StepPlan] = []
        self.ends: list[float] = []

    def run(self, plan: StepPlan) -> StepResult:
        made = self.runner.run(plan)
        self.plans.append(plan)
        self.ends.append(self.clock.now())
        return made

    def close(self) -> None:
        """The runner inside is its owner's."""


def _host(made: Record, clock: Clock) -> Host:
    """What steps of small models take beyond their kernels: medians, and what fits them best."""
    replayed: list[tuple[Feature, float]] = []
    called: list[tuple[Feature, float]] = []
    for layers, users, prompt in product(LAYERS, USERS, PROMPTS):
        calls, kernels, singles, others = _beyond(made, SMALL, layers, users, prompt, clock)
        # So small a model stays in caches, and its kernels are faster than recorded ones.
        replayed.append(((1.0, users, kernels), kernels + singles))
        called.append(((1.0, users, users * prompt, calls), others))
    start, each_start, _ = _fitted(replayed)
    step, each, token, call = _fitted(called)
    host = Host(start, each_start, step, each, token, call, 0.0)
    found = []
    for layers, users in product(LAYERS, USERS):
        known = replace(made, host=host)
        _, _, singles, _ = _beyond(known, ROUTED, layers, users, PROMPTS[0], clock)
        found.append(singles / layers)
    return replace(host, routed=max(0.0, median(found)))


def _beyond(
    made: Record, keys: dict[str, Any], layers: int, users: int, prompt: int, clock: Clock
) -> tuple[int, float, float, float]:
    """Calls of a step, predicted seconds of one of single tokens, and what steps take beyond their
    prediction, medians: of single tokens, and of prompts.
    """
    model = described("the host's", {**keys, "num_hidden_layers": layers})
    load = Load("", users, 4, prompt, prompt, 12)
    standing = stand(model, made.dtype, HOST_SCHEDULER, load.cache_tokens)
    timing = RecordedTiming(made, records(model, made.dtype))
    predictor = Predictor(
        model, Mesh(), timing, PRECISIONS[made.dtype], practice=PIERIA, page_tokens=PAGE_TOKENS
    )
    noted = _Noted(standing.runner, clock)
    drive(load, standing.replica.start(), noted, clock, model.vocabulary, prompt)
    beyond: dict[bool, list[float]] = {True: [], False: []}
    singles = []
    for plan, before, end in zip(noted.plans[1:], noted.ends, noted.ends[1:], strict=False):
        seconds = predictor(plan)
        is_single = plan.tokens == len(plan.chunks)
        beyond[is_single].append(end - before - seconds)
        if is_single:
            singles.append(seconds)
    return predictor.calls, median(singles), median(beyond[True]), median(beyond[False])


HOST_SCHEDULER = SchedulerConfig(enable_prefix_caching=False)


def _fitted(points: list[tuple[Feature, float]]) -> list[float]:
    """What each of the features takes, none less than nothing: least squares of relative errors."""
    features = np.array([feature for feature, _ in points])
    seconds = np.maximum(np.array([found for _, found in points]), 1e-6)
    kept = list(range(features.shape[1]))
    while True:
        some = features[:, kept] / seconds[:, None]
        found = np.linalg.lstsq(some, np.ones(len(seconds)), rcond=None)[0]
        if (found >= 0).all():
            break
        kept.pop(int(found.argmin()))
    made = [0.0] * features.shape[1]
    for at, value in zip(kept, found, strict=True):
        made[at] = float(value)
    return made
