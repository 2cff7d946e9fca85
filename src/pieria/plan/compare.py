"""Predictions beside published measurements, each with its error or the reason why there is none.

Knows loads and how they were measured. Nothing here is fitted to what it is compared with.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

from pieria.hardware import catalog
from pieria.parallel.mesh import Mesh
from pieria.plan import closed_loop, presets, published, runs, steady
from pieria.plan.accuracy import Point
from pieria.plan.closed_loop import Batching, Load, Served
from pieria.plan.practice import PRACTICES
from pieria.plan.precision import PRECISIONS
from pieria.plan.predict import Predictor
from pieria.plan.published import Layout, Row
from pieria.plan.routing import ROUTINGS
from pieria.plan.runs import Run
from pieria.plan.timing import Timing

LARGE_MISS = 0.3
"""Of an error that is given a reason."""


@dataclass(frozen=True)
class Found:
    """What was predicted. saturated: requests had to wait. doubts: what of it was not measured."""

    value: float
    saturated: bool = False
    doubts: tuple[str, ...] = ()


def compare(rows: Iterable[Row]) -> list[Point]:
    """Inference rows only, each with its prediction or the reason why there is none."""
    return [_compared(row) for row in rows if row.kind == "inference"]


def _compared(row: Row) -> Point:
    what = {
        "model": row.model,
        "hardware": row.hardware,
        "parallelism": row.parallelism,
        "precision": row.precision,
        "batch": row.batch,
        "seq_in": row.seq_in,
        "seq_out": row.seq_out,
        "source": row.source,
    }
    made = Point(what, row.metric, row.unit, row.value, None)
    try:
        found = _predicted(row)
    except ValueError as error:
        return replace(made, reason=str(error))
    made = replace(made, predicted=found.value, saturated=found.saturated)
    miss = made.error
    assert miss is not None
    if abs(miss) <= LARGE_MISS:
        return made
    return replace(made, reason="; ".join((*_doubts(row, found), *found.doubts)))


def _doubts(row: Row, found: Found) -> list[str]:
    """What of a row's own kind is known to be unlike what is predicted."""
    doubts = []
    is_moe = "235b" in row.model.lower() or "deepseek" in row.model.lower()
    if found.saturated and row.metric == "ttft":
        doubts.append("requests wait for the cache, so this is the length of a queue")
    elif row.metric == "ttft":
        doubts.append(
            "how many prompts come together is chance, and rows of one setting differ by as much"
        )
    if published.engine(row) == "vllm" and is_moe:
        doubts.append(
            "vLLM's experts are Triton kernels, and those that were measured are TensorRT-LLM's"
        )
    if "tokens_per_s" in row.metric and row.batch.startswith("max"):
        doubts.append("each run was tuned by its authors, and how is not published")
    if "EP" in row.parallelism and "per_node" in row.metric:
        doubts.append("how evenly tokens fell on experts is not published")
    return doubts or ["none is known"]


def _predicted(row: Row) -> Found:
    if published.pools(row.parallelism):
        raise ValueError("instances for prompts and for answers are not compared")
    if "submission" in row.parallelism or "undisclosed" in row.parallelism:
        raise ValueError("the row does not say how it was run")
    if (wide := published.wide(row)) is not None:
        return _wide(row, wide)
    count = published.users(row.batch)
    if row.metric in ("ttft", "tpot") and count is not None:
        served, doubts = _served(_setting(row), count)
        value = served.ttft if row.metric == "ttft" else served.tpot
        return Found(value * 1e3, served.waited, doubts)
    if row.metric == "output_tokens_per_s_total" and row.batch.startswith("max"):
        served, doubts = _served(_setting(row), 0)
        return Found(served.tokens_per_second, True, doubts)
    raise ValueError(f"{row.metric} of {row.parallelism!r} in {row.batch!r} is not predicted")


NODE_CARDS = 8


def _wide(row: Row, wide: published.Wide) -> Found:
    """Tokens/s of a node, of cards that all have requests of their own."""
    name = presets.preset(row.model).names[0]
    pool = steady.Pool(
        presets.model(name),
        catalog.cluster(row.hardware.removesuffix(" 8x node").removesuffix(" RoCE")),
        PRECISIONS[_precision(name, row)],
        steady.WIDE,
        wide.cards,
        routing=ROUTINGS["balanced" if wide.balanced else "skewed"],
    )
    if wide.is_prompt:
        rate = steady.prompts(pool, wide.tokens, wide.context)
    else:
        rate = steady.answers(pool, wide.tokens, wide.context)
    return Found(rate * NODE_CARDS, True, tuple(pool.predictor.notes))


@dataclass(frozen=True)
class Setting:
    """What a run depends on beside its users."""

    model: str
    hardware: str
    precision: str
    engine: str
    layout: Layout
    prompt: int
    answer: int
    run: Run


def _setting(row: Row) -> Setting:
    name = presets.preset(row.model).names[0]
    made = runs.run(row)
    assert row.seq_in and row.seq_out
    return Setting(
        name,
        row.hardware,
        _precision(name, row),
        published.engine(row),
        runs.laid_out(published.layout(row.parallelism), made),
        row.seq_in,
        row.seq_out,
        made,
    )


BLOCK_SCALED = ("deepseek", "kimi-k2", "minimax", "qwen3-235b", "qwen3-30b")
"""Models whose FP8 is published with a scale for each block."""


def _precision(model: str, row: Row) -> str:
    text = row.precision.lower()
    if model.startswith("gpt-oss"):
        return "mxfp4"
    if "int4" in text or "w4a16" in text:
        return "int4_experts" if model.startswith("kimi") else "int4"
    if "fp4" in text:
        return "nvfp4"
    if "fp8" in text:
        return "fp8_block" if model.startswith(BLOCK_SCALED) else "fp8"
    return "bfloat16"


@lru_cache(maxsize=256)
def _predictor(
    model: str,
    hardware: str,
    precision: str,
    engine: str,
    layout: Layout,
    kv_dtype: str | None,
    graph_tokens: int,
) -> Predictor:
    practice, format = PRACTICES[engine], PRECISIONS[precision]
    return Predictor(
        presets.model(model),
        Mesh(tp=layout.tp, pp=layout.pp),
        catalog.cluster(hardware.removesuffix(" 8x node")),
        replace(format, kv_dtype=kv_dtype),
        practice=replace(practice, graph_tokens=graph_tokens or practice.graph_tokens),
        routing=ROUTINGS["skewed"],
        attention_dp=layout.attention_dp,
        whole_experts=layout.moe_ep > 1,
    )


@lru_cache(maxsize=4096)
def _served(setting: Setting, users: int) -> tuple[Served, tuple[str, ...]]:
    """users: 0: as many as the engine takes at once."""
    layout, run, prompt = setting.layout, setting.run, setting.prompt
    predictor = _predictor(
        setting.model,
        setting.hardware,
        setting.precision,
        setting.engine,
        layout,
        run.kv_dtype,
        run.graph_tokens,
    )
    practice, apart = predictor.practice, layout.attention_dp
    cache_tokens = _cache_tokens(predictor, run.memory)
    # Ranks of requests that are all asked at once, with equal lengths, have as much to do.
    ranks = apart if practice.padded and users else 1
    if users:
        own = max(1, users * ranks // apart)
        load = Load(own, prompt, setting.answer, own * run.rounds, run.least, run.cold_seconds)
    else:
        load = Load(practice.most_running, prompt, setting.answer, run.requests // apart)
    budget = run.budget or practice.budget
    if run.spare:
        budget = load.users + prompt + run.spare
    batching = Batching(
        practice.order,
        budget,
        practice.chunked,
        practice.most_running,
        cache_tokens,
        practice.front_seconds,
        practice.front_token,
        practice.front_each if users else 0.0,
        practice.pipelined,
        predictor.launch_seconds if practice.pipelined else 0.0,
        ranks=ranks,
    )
    served = closed_loop.serve(
        lambda queries, starts: predictor.seconds(queries, starts, len(queries)), load, batching
    )
    doubts = list(predictor.notes)
    if isinstance(predictor.timing, Timing) and not predictor.timing.surfaces.is_measured:
        like = predictor.timing.surfaces.like
        doubts.append(
            f"operators of this card were not measured: it is given the {like}'s utilisation"
        )
    rate = served.tokens_per_second * (apart // ranks)
    return replace(served, tokens_per_second=rate), tuple(doubts)


def _cache_tokens(predictor: Predictor, share: float) -> float:
    """ValueError if weights leave no room for any."""
    assert isinstance(predictor.timing, Timing)
    total = predictor.timing.cluster.device.memory.value
    memory = predictor.memory[0]
    free = total - memory.weights
    room = share * free - memory.activations - memory.buffers
    if room <= 0:
        raise ValueError(
            f"{memory.weights / 1e9:.0f} GB of weights on a card of {total / 1e9:.0f} GB"
        )
    return room / (memory.need.page * len(memory.need.windows) / predictor.page_tokens)
