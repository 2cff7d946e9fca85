"""vLLM loads what `pieria quantize` writes, and finds the same probabilities."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks.peers.environments import VLLM, set_up
from pieria import LLM, SamplingParams
from pieria.models.checkpoint import open_checkpoint
from pieria.models.pull import default_cache
from pieria.models.quantized.write import quantize
from tests.models import tiny

SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "0",
    "HF_HUB_OFFLINE": "1",
    "CUDA_VISIBLE_DEVICES": "",
}
TOKENS = torch.randint(3, 200, (48,), generator=torch.Generator().manual_seed(0)).tolist()

FORMATS = {
    "int8": ("float32", 0.02),
    "int4-g32": ("bfloat16", 0.1),
    "int4-g128": ("bfloat16", 0.1),
    "int4-g32-zp": ("bfloat16", 0.1),
    "fp8": ("bfloat16", 0.4),
}
"""With the dtype of all else and the largest difference of a log-probability. vLLM rounds no
activations beside 4 bits, and its product has no float32 ("cpu_gemm_wna16" not implemented for
'Float').
"""


@pytest.mark.peers
@pytest.mark.parametrize("format", FORMATS)
def test_vllm_reads_it(format: str, tmp_path: Path) -> None:
    dtype, largest = FORMATS[format]
    made = tiny.model(
        "Llama", hidden_size=256, intermediate_size=512, num_key_value_heads=4, num_hidden_layers=2
    )
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "norm" not in name:
                parameter.mul_(0.25)
    tiny.write_tokenizer(tiny.save(made, tmp_path / "plain"))
    quantize(open_checkpoint(tmp_path / "plain"), format, tmp_path / "out")
    python = set_up(VLLM, default_cache() / "peers")
    script = Path(__file__).parent / "vllm_logprobs.py"
    done = subprocess.run(
        [python, script, tmp_path / "out", dtype, json.dumps(TOKENS)],
        env={**os.environ, **SETTINGS},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    assert lines, done.stderr[-4000:]
    theirs = json.loads(lines[0].removeprefix("FOUND "))
    options = {"dtype": dtype, "threads": 1, "kv_cache_memory_bytes": 4 << 20}
    with LLM(str(tmp_path / "out"), **options) as llm:
        params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
        [output] = llm.generate([TOKENS], params, progress=False)
    assert output.prompt_logprobs is not None
    ours = [
        several[token].logprob
        for token, several in zip(TOKENS[1:], output.prompt_logprobs[1:], strict=True)
        if several is not None
    ]
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) < largest
