"""How published measurements were made: what their rows leave out, and where it is written.

Knows benchmarks. Does not know how anything is predicted. Nothing here is fitted to a row.
"""

from dataclasses import dataclass, replace

from pieria.plan.published import Layout, Row, engine


@dataclass(frozen=True)
class Run:
    """A benchmark of serving.

    rounds: requests of each user. requests: in all, of users without end, all asked at once.
    least: of the longest prompt and answer, the shortest, as a share.
    cold_seconds: what the first step takes longer, where nothing warmed the server up.
    budget: tokens of a step. spare: instead, one for each user, those of a prompt and as many more.
    Both 0: the engine's own.
    kv_dtype: of the cache, in torch's name; None: as the engine has it for these weights.
    memory: share of what weights leave that the cache gets.
    graph_tokens: of steps that are replayed; 0: the engine's own.
    """

    rounds: int = 10
    requests: int = 0
    least: float = 1.0
    cold_seconds: float = 0.0
    budget: int = 0
    spare: int = 0
    kv_dtype: str | None = None
    memory: float = 0.9
    graph_tokens: int = 0


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
    "trtllm": Run(least=0.8, cold_seconds=COLD_SECONDS, spare=64, kv_dtype="float8_e4m3fn"),
}
"""InferenceMAX by engine: README.md and benchmarks/dsr1_fp8_h200_*.sh of 2025: random_range_ratio
0.8, ten requests a user and no warm-up; --chunked-prefill-size 32768; MAX_NUM_TOKENS of the prompt,
the users and 64, and a cache in FP8; --max-num-batched-tokens 8192.
"""

REQUESTS = {
    (128, 128): 30000,
    (128, 2048): 3000,
    (500, 2000): 3000,
    (1000, 1000): 3000,
    (1000, 2000): 1500,
    (2048, 128): 3000,
    (2048, 2048): 1500,
    (5000, 500): 1500,
    (20000, 2000): 1000,
}
OVERVIEW = Run(kv_dtype="float8_e4m3fn", memory=0.95, graph_tokens=8192)
"""TensorRT-LLM's docs/source/performance/perf-overview.md, with `REQUESTS` by prompt and answer:
published FP8 checkpoints keep their caches in FP8; the cache gets 0.95 of what is free, and steps
of single tokens are replayed up to 8192; models with experts run with enable_attention_dp.
"""


def run(row: Row) -> Run:
    """ValueError if the row says no lengths, or some of which no number of requests is known."""
    if row.seq_in is None or row.seq_out is None:
        raise ValueError(f"{row.metric} without the lengths of prompts and answers")
    if row.batch.startswith("max"):
        lengths = row.seq_in, row.seq_out
        if lengths not in REQUESTS:
            raise ValueError(f"how many requests of {lengths} tokens there were is not known")
        return replace(OVERVIEW, requests=REQUESTS[lengths])
    is_max = "dsr1_" in row.source or "gptoss_" in row.source
    runs = INFERENCEMAX if is_max else AICONFIGURATOR
    return runs.get(engine(row), runs[""])


def laid_out(found: Layout, made: Run) -> Layout:
    """As the benchmark ran it: with requests apart where experts are cut by number."""
    if made.requests and found.moe_ep > 1:
        return replace(found, tp=1, attention_dp=found.tp * found.attention_dp)
    return found
