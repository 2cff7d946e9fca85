"""What may be asked of a runner."""

from typing import Any

import pytest

from pieria.engine.runner_config import DTYPES, RunnerConfig


def test_all_that_is_allowed() -> None:
    for dtype in DTYPES:
        assert RunnerConfig("m", dtype=dtype).dtype == dtype
    RunnerConfig("m", tensor_parallel_size=1024, block_size=1, max_model_len=1, threads=4096)
    RunnerConfig("m", memory_fraction=1.0, kv_cache_memory_bytes=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": ""}, "no model is given: a short name, hub id, folder or GGUF file"),
        ({"dtype": "int8"}, "dtype='int8'; there are: auto, float64, float32, bfloat16, float16"),
        ({"kv_cache_dtype": "fp4"}, "kv_cache_dtype='fp4'; there are: auto, int8, fp8, fp8_e4m3"),
        ({"tensor_parallel_size": 0}, "tensor_parallel_size=0 must be from 1 to 1024"),
        ({"block_size": 1025}, "block_size=1025 must be from 1 to 1024"),
        ({"max_model_len": 0}, "max_model_len=0 must be from 1 to 2147483647"),
        ({"kv_cache_memory_bytes": 0}, "kv_cache_memory_bytes=0 must be from 1 to"),
        ({"threads": 0}, "threads=0 must be from 1 to 4096"),
        ({"memory_fraction": 0.0}, "memory_fraction=0.0 must be above 0 and at most 1"),
        ({"memory_fraction": 1.01}, "memory_fraction=1.01 must be above 0 and at most 1"),
        ({"memory_fraction": float("nan")}, "memory_fraction=nan must be above 0"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunnerConfig(**{"model": "m", **options})
