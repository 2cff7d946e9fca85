"""Packs published operator and collective measurements into the planner's tables.

    python -m benchmarks.measured_tables FOLDER OUT

FOLDER: the parquet files of ai-dynamo/aiconfigurator (Apache-2.0, commit 095f58a), named
`<system>_<table>.parquet`. OUT: where `<system>.npz` go, as `pieria.plan.tables` reads them. Needs
pyarrow. Rows that were measured twice become their median; latencies are kept as 1000 log2 of
microseconds in 16 bits, which rounds them by less than 0.04 %.
"""

import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow.parquet

KEYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "gemm_perf": (("gemm_dtype",), ("m", "n", "k")),
    "context_attention_perf": (
        ("num_heads", "num_key_value_heads", "head_dim", "window_size", "kv_cache_dtype"),
        ("batch_size", "isl"),
    ),
    "generation_attention_perf": (
        ("num_heads", "num_key_value_heads", "head_dim", "window_size", "kv_cache_dtype"),
        ("batch_size", "context"),
    ),
    "moe_perf": (
        (
            *("hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size"),
            *("moe_dtype", "distribution"),
        ),
        ("num_tokens",),
    ),
    "mla_context_module_perf": (
        ("num_heads", "gemm_type", "kv_cache_dtype"),
        ("batch_size", "isl"),
    ),
    "mla_generation_module_perf": (
        ("num_heads", "gemm_type", "kv_cache_dtype"),
        ("batch_size", "context"),
    ),
    "comm_nccl": (("op_name", "nccl_dtype", "num_gpus"), ("message_size",)),
}
"""Of each table, what tells one curve or surface from another, and what it runs over."""

WRONG = {"h200_sxm_context_attention_perf"}
"""Up to 260 times as fast as the device's peak: it was not run with as many heads as it says."""

SCALE = 1000
"""Steps in which log2 of microseconds is kept."""


def pack(path: Path, keys: Sequence[str], axes: Sequence[str]) -> dict[str, Any]:
    """The arrays of one table: keys as text, axes, and latencies [keys, *axes], 0 where none is."""
    columns = pyarrow.parquet.read_table(path).to_pydict()
    if "context" in axes:
        columns["context"] = [i + s for i, s in zip(columns["isl"], columns["step"], strict=True)]
    found: dict[tuple[Any, ...], dict[tuple[int, ...], list[float]]] = defaultdict(
        lambda: defaultdict(list)
    )
    names = zip(*(columns[k] for k in keys), strict=True)
    places = zip(*(columns[a] for a in axes), strict=True)
    for name, place, latency in zip(names, places, columns["latency"], strict=True):
        found[name][place].append(latency)
    values = [sorted(set(columns[a])) for a in axes]
    index = [{value: i for i, value in enumerate(axis)} for axis in values]
    packed = np.zeros((len(found), *(len(axis) for axis in values)), np.uint16)
    for i, surface in enumerate(found.values()):
        for place, measured in surface.items():
            at = tuple(of[value] for of, value in zip(index, place, strict=True))
            packed[(i, *at)] = round(SCALE * np.log2(median(measured) * 1e3))
    arrays = {"keys": np.array([[str(part) for part in name] for name in found])}
    for name, axis in zip(axes, values, strict=True):
        arrays[name] = np.array(axis, np.int64)
    arrays["log2us"] = packed
    return arrays


def main(folder: Path, out: Path) -> None:
    systems: dict[str, dict[str, Any]] = defaultdict(dict)
    for path in sorted(folder.glob("*.parquet")):
        if path.stem in WRONG:
            continue
        table = next(name for name in KEYS if name in path.stem)
        system = path.stem.partition(f"_{table}")[0]
        short = table.removesuffix("_perf").removesuffix("_module")
        for name, array in pack(path, *KEYS[table]).items():
            systems[system][f"{short}.{name}"] = array
    for system, arrays in systems.items():
        np.savez_compressed(out / f"{system}.npz", **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
