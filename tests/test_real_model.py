"""SmolLM2-135M-Instruct, float32, against transformers on the same dequantized weights.

The engine's own tokens are forced through the reference: each must be the reference's best, or
within 1e-4 of it.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from pieria import LLM, SamplingParams

TOKENS = 64
BEGINNINGS = """\
The capital of France is
Once upon a time there was
def fibonacci(n):
Water boils at
The three laws of motion say that
Dear Sir or Madam,
1, 1, 2, 3, 5, 8,
SELECT name FROM
In the beginning
A recipe for bread:
Photosynthesis is the process by which
To be or not to be,
The quick brown fox
import numpy as np;
Bonjour, je m'appelle
The largest planet is
Newton was born in
My favourite book is
E = mc^2 means
<html><head>""".splitlines()
PROMPTS = [
    f"{' '.join(BEGINNINGS[(i + k + 1) % 20] for k in range(4 + i % 5))} {text}"
    for i, text in enumerate(BEGINNINGS)
]
"""Of different lengths, all longer than a step of the second test computes."""

GREEDY = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)


@pytest.fixture(scope="module")
def reference(smollm2: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        smollm2.parent, gguf_file=smollm2.name, dtype=torch.float32
    ).eval()


def worst(reference: Any, prompt: list[int], tokens: list[int]) -> float:
    """How far below the reference's best logit any of `tokens` is."""
    with torch.no_grad():
        logits = reference(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
    chosen = logits.gather(1, torch.tensor(tokens)[:, None])[:, 0]
    return float((logits.amax(-1) - chosen).max())


def test_alone(smollm2: Path, reference: Any) -> None:
    with LLM(str(smollm2), dtype="float32", quantize="none", enable_prefix_caching=False) as llm:
        for prompt in PROMPTS:
            [output] = llm.generate(prompt, GREEDY, progress=False)
            tokens = output.outputs[0].token_ids
            assert len(tokens) == TOKENS
            assert worst(reference, output.prompt_token_ids, tokens) <= 1e-4, prompt


def test_all_at_once_in_a_pool_that_is_too_small(smollm2: Path, reference: Any) -> None:
    options = {"max_num_batched_tokens": 20, "max_num_seqs": 20, "max_model_len": 128}
    # 30 layers, keys and values of 3 heads of 64 float32: 46,080 bytes a token, 24 pages of 16
    # tokens.
    memory = 24 * 16 * 46_080
    with LLM(
        str(smollm2), dtype="float32", quantize="none", kv_cache_memory_bytes=memory, **options
    ) as llm:
        outputs = llm.generate(PROMPTS, GREEDY, progress=False)
        assert llm.stats.preemptions >= 5
        assert llm.stats.split_prompts >= 20
        assert llm.stats.pages_held == 0
    for output in outputs:
        tokens = output.outputs[0].token_ids
        assert len(tokens) == TOKENS
        assert worst(reference, output.prompt_token_ids, tokens) <= 1e-4, output.prompt


def test_a_worse_token_would_be_seen(smollm2: Path, reference: Any) -> None:
    with LLM(str(smollm2), dtype="float32", quantize="none") as llm:
        [output] = llm.generate(PROMPTS[0], GREEDY, progress=False)
    tokens = list(output.outputs[0].token_ids)
    tokens[10] = 17
    assert worst(reference, output.prompt_token_ids, tokens) > 1e-2


def test_it_knows_the_capital_of_france(smollm2: Path) -> None:
    with LLM(str(smollm2)) as llm:
        question = [{"role": "user", "content": "Name the capital of France."}]
        [output] = llm.chat(question, SamplingParams(temperature=0, max_tokens=32), progress=False)
    assert "Paris" in output.outputs[0].text
    assert output.outputs[0].finish_reason == "stop"


@pytest.mark.parametrize("held", ["auto", "int8", pytest.param("fp8", marks=pytest.mark.slow)])
def test_no_bit_depends_on_what_else_is_computed(smollm2: Path, held: str) -> None:
    """In bfloat16: alone and batched, cold and warm, whole and split, recorded and not."""
    drawn = SamplingParams(temperature=0.9, seed=7, max_tokens=12, ignore_eos=True, logprobs=3)
    prompts = PROMPTS[:6]

    def made(options: dict[str, Any], rounds: int, together: bool) -> list[list[Any]]:
        found = []
        options = {"dtype": "bfloat16", "max_model_len": 256, "kv_cache_dtype": held, **options}
        with LLM(str(smollm2), **options) as llm:
            for _ in range(rounds):
                groups = [prompts] if together else [[prompt] for prompt in prompts]
                outputs = [o for g in groups for o in llm.generate(g, drawn, progress=False)]
                found.append([(o.outputs[0].token_ids, o.outputs[0].logprobs) for o in outputs])
        return found

    [alone] = made({"enable_prefix_caching": False, "enforce_eager": True}, 1, together=False)
    assert made({}, 2, together=True) == [alone, alone]
    split = {"max_num_batched_tokens": 20, "max_num_seqs": 20, "threads": 1}
    assert made(split, 1, together=True) == [alone]


@pytest.mark.parametrize("quantize", ["auto", "int8", "int4", "fp8"])
def test_weights_of_few_bits(smollm2: Path, quantize: str) -> None:
    """They answer as the model does."""
    with LLM(str(smollm2), quantize=quantize, max_model_len=256) as llm:
        question = [{"role": "user", "content": "Name the capital of France."}]
        [answer] = llm.chat(question, SamplingParams(temperature=0, max_tokens=16))
    assert "Paris" in answer.outputs[0].text


@pytest.mark.parametrize("held", ["int8", "fp8"])
def test_keys_and_values_of_few_bits(smollm2: Path, held: str) -> None:
    """They answer as the model does."""
    question = [{"role": "user", "content": "Name the capital of France."}]
    with LLM(str(smollm2), kv_cache_dtype=held, kv_cache_memory_bytes=64 << 20) as llm:
        [answer] = llm.chat(question, SamplingParams(temperature=0, max_tokens=16))
    assert "Paris" in answer.outputs[0].text
