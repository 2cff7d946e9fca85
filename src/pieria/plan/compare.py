"""Predictions beside published measurements, each with its error or the reason why there is none.

Knows loads and how they were measured. Nothing here is fitted to what it is compared with.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

from pieria.hardware import catalog
from pieria.parallel.mesh import Mesh
from pieria.plan import closed_loop, presets, published, runs
from pieria.plan.closed_loop import Batching, Load, Served
from pieria.plan.practice import PRACTICES
from pieria.plan.precision import PRECISIONS
from pieria.plan.predict import Predictor
from pieria.plan.published import Layout, Row
from pieria.plan.routing import ROUTINGS
from pieria.plan.runs import Run


@dataclass(frozen=True)
class Compared:
    """A row with what was predicted; reason: why nothing was. saturated: requests had to wait."""

    row: Row
    predicted: float | None
    reason: str = ""
    saturated: bool = False

    @property
    def error(self) -> float | None:
        """(predicted - measured) / measured."""
        if self.predicted is None:
            return None
        return (self.predicted - self.row.value) / self.row.value


def compare(rows: Iterable[Row]) -> list[Compared]:
    """Inference rows only."""
    return [_compared(row) for row in rows if row.kind == "inference"]


def _compared(row: Row) -> Compared:
    try:
        return _predicted(row)
    except ValueError as error:
        return Compared(row, None, str(error))


def _predicted(row: Row) -> Compared:
    if published.pools(row.parallelism):
        raise ValueError("instances for prompts and for answers are not compared")
    if "submission" in row.parallelism or "undisclosed" in row.parallelism:
        raise ValueError("the row does not say how it was run")
    count = published.users(row.batch)
    if row.metric in ("ttft", "tpot") and count is not None:
        served = _served(_setting(row), count)
        value = served.ttft if row.metric == "ttft" else served.tpot
        return Compared(row, value * 1e3, saturated=served.waited)
    if row.metric == "output_tokens_per_s_total" and row.batch.startswith("max"):
        served = _served(_setting(row), 0)
        return Compared(row, served.tokens_per_second, saturated=True)
    raise ValueError(f"{row.metric} of {row.parallelism!r} is not predicted")


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
    kv_bytes: int,
    graph_tokens: int,
) -> Predictor:
    practice, format = PRACTICES[engine], PRECISIONS[precision]
    return Predictor(
        presets.model(model),
        Mesh(tp=layout.tp, pp=layout.pp),
        catalog.cluster(hardware.removesuffix(" 8x node")),
        replace(format, kv_bytes=kv_bytes or format.kv_bytes),
        practice=replace(practice, graph_tokens=graph_tokens or practice.graph_tokens),
        routing=ROUTINGS["skewed"],
        attention_dp=layout.attention_dp,
        whole_experts=layout.moe_ep > 1,
    )


@lru_cache(maxsize=4096)
def _served(setting: Setting, users: int) -> Served:
    """users: 0: as many as the engine takes at once."""
    layout, run, prompt = setting.layout, setting.run, setting.prompt
    predictor = _predictor(
        setting.model,
        setting.hardware,
        setting.precision,
        setting.engine,
        layout,
        run.kv_bytes,
        run.graph_tokens,
    )
    practice, apart = predictor.practice, layout.attention_dp
    cache_tokens = _cache_tokens(predictor, run.memory)
    if users:
        own = max(1, users // apart)
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
    )
    served = closed_loop.serve(
        lambda queries, starts: predictor.seconds(queries, starts, len(queries)), load, batching
    )
    return replace(served, tokens_per_second=served.tokens_per_second * apart)


def _cache_tokens(predictor: Predictor, share: float) -> float:
    """ValueError if weights leave no room for any."""
    total = predictor.timing.cluster.device.memory.value
    memory = predictor.memory[0]
    free = total - memory.weights
    room = share * free - memory.activations - memory.buffers
    if room <= 0:
        raise ValueError(f"{memory.weights / 1e9:.0f} GB of weights on a card of {total / 1e9:.0f} GB")
    return room / (memory.need.page * len(memory.need.windows) / predictor.page_tokens)
