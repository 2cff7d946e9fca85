"""`pieria bench compare --local`: what the engine does here, beside what its record predicts.

Knows models, loads and both ways to run them. Nothing that is measured here goes into a prediction:
all that does is the record that `bench ops --record` wrote.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from pieria.bench.drive import Load, Times, drive
from pieria.bench.stand import PAGE_TOKENS, described, predictor, stand
from pieria.clock import Clock
from pieria.engine.plan import Chunk, ChunkResult
from pieria.engine.scheduler import SchedulerConfig
from pieria.models.config import ModelConfig
from pieria.plan.accuracy import Point
from pieria.plan.predict import Predictor
from pieria.plan.record import Record
from pieria.plan.replica import PredictedRunner, Replica, VirtualTime

COMMON = {"max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 10000.0}
MODELS: dict[str, dict[str, Any]] = {
    # HuggingFaceTB/SmolLM2-135M, whole.
    "smollm2-135m": {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    },
    # Qwen3-0.6B, 6 of 28 layers and a smaller vocabulary.
    "qwen3-0.6b-6l": {
        "architectures": ["Qwen3ForCausalLM"],
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 6,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 32768,
        "tie_word_embeddings": True,
    },
    # In the form of Qwen3-30B-A3B.
    "moe-16x4": {
        "architectures": ["Qwen3MoeForCausalLM"],
        "hidden_size": 512,
        "intermediate_size": 1024,
        "moe_intermediate_size": 256,
        "num_experts": 16,
        "num_experts_per_tok": 4,
        "norm_topk_prob": True,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "vocab_size": 32768,
        "tie_word_embeddings": True,
    },
    # Qwen2.5-0.5B, 8 of 24 layers and a smaller vocabulary: none of its shapes is in a record.
    "qwen2.5-0.5b-8l": {
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 8,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 32768,
        "tie_word_embeddings": True,
    },
}

LOADS = (
    Load("1 user", 1, 2, 64, 128, 32),
    Load("4 users", 4, 2, 32, 96, 24),
    Load("12 users, mixed", 12, 2, 8, 96, 16),
    Load("4 users, long prompts", 4, 1, 256, 512, 16),
)
SCHEDULER = SchedulerConfig(max_num_batched_tokens=512, enable_prefix_caching=False)
RUNS = 3
"""Of each load, the first of which does not count; the median of the others is taken."""

Report = Callable[[str, int, int], None]
"""Told what is run, its number, and of how many."""


@dataclass(frozen=True)
class Workload:
    model: str
    load: Load


def predicted(config: ModelConfig, load: Load, record: Record) -> tuple[Times, Predictor]:
    """By the scheduler that serves, on a clock that steps' predicted seconds move."""
    found = predictor(config, record, SCHEDULER)
    windows = found.layout.windows
    pages = len(windows) * (-(-load.cache_tokens // PAGE_TOKENS))
    replica = Replica(SCHEDULER, pages, PAGE_TOKENS, config.context, windows)
    clock = VirtualTime()
    runner = PredictedRunner(found, _token, clock)
    return drive(load, replica.start(), runner, clock, config.vocabulary, 0), found


def _token(chunk: Chunk) -> ChunkResult:
    return ChunkResult(chunk.request, None if chunk.draw is None else 0)


def measured(config: ModelConfig, loads: Sequence[Load], dtype: str, clock: Clock) -> list[Times]:
    """By the engine in this process."""
    room = max(load.cache_tokens for load in loads)
    standing = stand(config, dtype, SCHEDULER, room)
    found = []
    for load in loads:
        times = [
            drive(load, standing.replica.start(), standing.runner, clock, config.vocabulary, seed)
            for seed in range(RUNS)
        ][1:]
        numbers = (
            median(getattr(t, name) for t in times) for name in ("throughput", "ttft", "itl")
        )
        found.append(Times(*numbers))
    standing.runner.close()
    return found


METRICS = {"throughput": ("tokens/s", 1.0), "ttft": ("ms", 1e3), "itl": ("ms", 1e3)}


def compare(
    record: Record,
    clock: Clock,
    report: Report = lambda what, number, total: None,
    models: Mapping[str, Mapping[str, Any]] = MODELS,
    loads: Sequence[Load] = LOADS,
) -> list[Point]:
    """Every model under every load: throughput, time to the first token, and between tokens."""
    points = []
    for number, (name, keys) in enumerate(models.items()):
        report(name, number, len(models))
        config = described(name, {**COMMON, **keys})
        every = measured(config, loads, record.dtype, clock)
        for load, real in zip(loads, every, strict=True):
            found, behind = predicted(config, load, record)
            for metric, (unit, scale) in METRICS.items():
                points.append(
                    Point(
                        {"model": name, "load": load.name},
                        metric,
                        unit,
                        getattr(real, metric) * scale,
                        getattr(found, metric) * scale,
                        "; ".join(behind.notes),
                    )
                )
    return points
