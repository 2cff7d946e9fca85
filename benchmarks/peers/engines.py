"""How each engine is started, with the settings that serve it best, which the report repeats.

Knows commands and settings. Does not measure.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import (
    LLAMA,
    OPENVINO,
    TRANSFORMERS,
    VLLM,
    Environment,
    llama_program,
)
from benchmarks.peers.models import CONTEXT_TOKENS, Model
from pieria.kernels.cpu import native

CACHE_GIB = 4
MOST_REQUESTS = 128
WORKERS = Path(__file__).parent / "workers"


@dataclass(frozen=True)
class Engine:
    """environment: None for Pieria, which runs in this one.

    settings: all but weights, for the report.
    """

    name: str
    environment: Environment | None
    settings: str
    serves: bool


PIERIA = Engine(
    "pieria",
    None,
    f"bf16 cache of {CACHE_GIB} GiB, at most {MOST_REQUESTS} requests in a step, else as it comes",
    True,
)
ENGINES = (
    PIERIA,
    Engine(
        "llama.cpp",
        LLAMA,
        "F16 cache, flash attention; one and 32 requests in process by llama-bench"
        " and llama-batched-bench, which draw no tokens; server with as many slots as streams,"
        " a shared prefix with one slot",
        True,
    ),
    Engine(
        "vllm",
        VLLM,
        f"bf16 cache of {CACHE_GIB} GiB, at most {MOST_REQUESTS} requests in a step, prefix cache,"
        " compiled",
        True,
    ),
    Engine(
        "openvino",
        OPENVINO,
        "computed in bf16 where pairs of it are what the processor multiplies fastest, else in f32"
        f"; f16 cache of {CACHE_GIB} GiB, continuous batching, split prompts, prefix cache;"
        " no server here",
        False,
    ),
    Engine(
        "transformers",
        TRANSFORMERS,
        "scaled dot product attention, one padded batch; its server is not measured",
        False,
    ),
)
NAMES = tuple(engine.name for engine in ENGINES)


def worker_settings(engine: str, quantize: str, threads: int) -> dict[str, Any]:
    """What its file in `workers` takes. quantize: Pieria's option."""
    if engine == "pieria":
        return {
            "dtype": "bfloat16",
            "quantize": quantize,
            "kv_cache_memory_bytes": CACHE_GIB << 30,
            "max_num_seqs": MOST_REQUESTS,
        }
    if engine == "vllm":
        return {
            "dtype": "bfloat16",
            "max_model_len": CONTEXT_TOKENS,
            "max_num_seqs": MOST_REQUESTS,
            "enable_prefix_caching": True,
        }
    if engine == "openvino":
        return {
            "scheduler": {
                "cache_size": CACHE_GIB,
                "max_num_seqs": MOST_REQUESTS,
                "max_num_batched_tokens": 2048,
                "dynamic_split_fuse": True,
                "enable_prefix_caching": True,
            },
            "device": {
                "INFERENCE_PRECISION_HINT": _openvino_precision(),
                "KV_CACHE_PRECISION": "f16",
                "INFERENCE_NUM_THREADS": threads,
            },
        }
    return {"dtype": "bfloat16", "threads": threads}


def _openvino_precision() -> str:
    """What serves it best: bf16 doubles its prompts on a Zen 4 and takes a third of them on a
    Sapphire Rapids without AMX, as products of pairs run at other rates.
    """
    return "bf16" if native.available()[:1] == ["avx512_bf16"] else "f32"


def environment(engine: str, threads: int) -> dict[str, str]:
    """Variables of its processes."""
    found = dict(os.environ)
    if engine == "vllm":
        found["VLLM_CPU_KVCACHE_SPACE"] = str(CACHE_GIB)
        found["VLLM_CPU_OMP_THREADS_BIND"] = f"0-{threads - 1}"
    if engine != "pieria":
        found.pop("PYTHONPATH", None)
    return found


def server_command(
    engine: str, python: Path, model: Model, port: int, threads: int, slots: int, slot_tokens: int
) -> list[str]:
    """slots, slot_tokens: what llama.cpp divides its cache into; the others need no such word."""
    path = str(model.paths[engine])
    if engine == "pieria":
        return [
            *(sys.executable, "-m", "pieria.cli", "serve", path, "--served-model-name", "m"),
            *("--dtype", "bfloat16", "--quantize", model.precision.quantize),
            *("--kv-cache-memory-bytes", f"{CACHE_GIB}GiB"),
            *("--max-num-seqs", str(MOST_REQUESTS), "--port", str(port)),
            *("--log-level", "warning"),
        ]
    if engine == "vllm":
        return [
            *(str(python.parent / "vllm"), "serve", path, "--served-model-name", "m"),
            *("--dtype", "bfloat16", "--max-model-len", str(CONTEXT_TOKENS)),
            *("--max-num-seqs", str(MOST_REQUESTS), "--port", str(port)),
            *("--host", "127.0.0.1", "--disable-uvicorn-access-log"),
        ]
    assert engine == "llama.cpp", f"{engine} has no server"
    return [
        *(str(llama_program("llama-server", python)), "--model", path, "--alias", "m"),
        *("--flash-attn", "on", "--threads", str(threads), "--no-ui"),
        *("--parallel", str(slots), "--ctx-size", str(slots * slot_tokens)),
        *("--host", "127.0.0.1", "--port", str(port)),
    ]


READY: Mapping[str, str] = {"pieria": "/ready", "vllm": "/health", "llama.cpp": "/health"}
"""What answers 200 once requests are taken."""
