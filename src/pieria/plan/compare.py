"""Predictions beside published measurements, each with its error or the reason why there is none.

Knows loads and how they were measured. Nothing here is fitted to what it is compared with.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

from pieria.hardware import catalog
from pieria.parallel.mesh import Mesh
from pieria.plan import closed_loop, presets, published
from pieria.plan.closed_loop import Batching, Load, Served
from pieria.plan.practice import PRACTICES
from pieria.plan.precision import PRECISIONS
from pieria.plan.predict import Predictor
from pieria.plan.published import Layout, Row
from pieria.plan.routing import ROUTINGS


@dataclass(frozen=True)
class Run:
    """How a benchmark was run, as far as it is known.

    rounds: requests of each user. least: of the longest prompt and answer, the shortest.
    cold_seconds: what the first step takes longer, where nothing warmed the server up.
    budget: tokens of a step; 0: the engine's own, or where `spare` is given one of each user, a
    prompt's and as many more.
    """

    rounds: int = 10
    least: float = 1.0
    cold_seconds: float = 0.0
    budget: int = 0
    spare: int = 0


AICONFIGURATOR = {"": Run(), "trtllm": Run(spare=1500)}
"""aiconfigurator by engine: genai_perf_runner.py: equal lengths, ten requests a user after two to
warm up; generator/rule_plugin/trtllm.rule: max_num_tokens.
"""

COLD_SECONDS = 1.5
"""P99 of the time to the first token is 1.98 s with 8 users where the other nine tenths of requests
wait for a quarter of it (SemiAnalysisAI/InferenceX issue 870): the first prompts are slow.
"""

INFERENCEMAX = {
    "": Run(least=0.8, cold_seconds=COLD_SECONDS, budget=8192),
    "sglang": Run(least=0.8, cold_seconds=COLD_SECONDS, budget=32768),
    "trtllm": Run(least=0.8, cold_seconds=COLD_SECONDS, spare=64),
}
"""InferenceMAX by engine: README.md and benchmarks/dsr1_fp8_h200_*.sh of 2025: random_range_ratio
0.8, ten requests a user and no warm-up; --chunked-prefill-size 32768; MAX_NUM_TOKENS of the prompt,
the users and 64; --max-num-batched-tokens 8192.
"""

RESERVED = 0.9
"""Share of memory that engines use by default."""


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
    pools = published.pools(row.parallelism)
    count = published.users(row.batch)
    if row.metric in ("ttft", "tpot") and count is not None:
        assert row.seq_in and row.seq_out
        if pools is not None:
            raise ValueError("prefill and decode apart")
        served = _served(_setting(row), published.layout(row.parallelism), count)
        value = served.ttft if row.metric == "ttft" else served.tpot
        return Compared(row, value * 1e3, saturated=served.waited)
    if row.metric == "output_tokens_per_s_total" and row.batch.startswith("max"):
        served = _served(_setting(row), published.layout(row.parallelism), None)
        return Compared(row, served.tokens_per_second)
    raise ValueError(f"{row.metric} of {row.parallelism!r} is not predicted")


@dataclass(frozen=True)
class Setting:
    """What a run depends on beside its layout and users."""

    model: str
    hardware: str
    precision: str
    engine: str
    prompt: int
    answer: int
    run: Run


def _setting(row: Row) -> Setting:
    assert row.seq_in and row.seq_out
    name = presets.preset(row.model).names[0]
    served_by = published.engine(row)
    is_max = "dsr1_" in row.source or "gptoss_" in row.source
    runs = INFERENCEMAX if is_max else AICONFIGURATOR
    run = runs.get(served_by, runs[""])
    return Setting(
        name,
        row.hardware,
        _precision(name, row),
        served_by,
        row.seq_in,
        row.seq_out,
        run,
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
def _predictor(model: str, hardware: str, precision: str, engine: str, layout: Layout) -> Predictor:
    return Predictor(
        presets.model(model),
        Mesh(tp=layout.tp, pp=layout.pp),
        catalog.cluster(hardware.removesuffix(" 8x node")),
        PRECISIONS[precision],
        practice=PRACTICES[engine],
        routing=ROUTINGS["skewed"],
        attention_dp=layout.attention_dp,
        whole_experts=layout.moe_ep > 1,
    )


@lru_cache(maxsize=4096)
def _served(setting: Setting, layout: Layout, users: int | None) -> Served:
    predictor = _predictor(
        setting.model, setting.hardware, setting.precision, setting.engine, layout
    )
    practice = PRACTICES[setting.engine]
    memory = predictor.memory[0]
    available = predictor.timing.cluster.device.memory.value * RESERVED
    room = available - memory.weights - memory.activations - memory.buffers
    token = memory.need.page * len(memory.need.windows) / 16
    if room <= 0:
        raise ValueError(
            f"{memory.weights / 1e9:.0f} GB of weights on a card of {available / 0.9e9:.0f} GB"
        )
    tokens = room / token
    if users is None:
        most = int(tokens / (setting.prompt + setting.answer / 2))
        users = min(practice.most_running, most) * layout.attention_dp
        load = Load(
            users // layout.attention_dp,
            setting.prompt,
            setting.answer,
            3 * users // layout.attention_dp,
        )
    else:
        own = max(1, users // layout.attention_dp)
        run = setting.run
        load = Load(
            own,
            setting.prompt,
            setting.answer,
            own * run.rounds,
            run.least,
            run.cold_seconds,
        )
    budget = setting.run.budget
    if setting.run.spare:
        budget = load.users + setting.prompt + setting.run.spare
    batching = Batching(
        practice.order,
        budget or practice.budget,
        practice.chunked,
        practice.most_running,
        tokens,
        practice.front_seconds,
        practice.front_token,
        practice.front_each,
        practice.pipelined,
        predictor.launch_seconds if practice.pipelined else 0.0,
    )
    served = closed_loop.serve(
        lambda queries, starts: predictor.seconds(queries, starts, len(queries)), load, batching
    )
    return replace(served, tokens_per_second=served.tokens_per_second * layout.attention_dp)
