"""Decoding over a long context with each format of the cache: rates, and ratios to the model's own.

    python -m benchmarks.cache_formats smollm2-135m --context 7936

In this process, formats in turns. The prompt is in the prefix cache after its first time; what
`TOKENS` more tokens take beyond the first is their time, of all rounds the median.
"""

import argparse
from statistics import median

from pieria import LLM, SamplingParams
from pieria.clock import Clock, RealTime

FORMATS = ("auto", "int8", "fp8")
TOKENS = 96
ROUNDS = 5


def seconds(llm: LLM, prompt: list[int], tokens: int, clock: Clock) -> float:
    params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
    begun = clock.now()
    llm.generate([prompt], params, progress=False)
    return clock.now() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--context", type=int, default=7936, help="tokens of the prompt")
    options = parser.parse_args()
    clock = RealTime()
    rates: dict[str, list[float]] = {name: [] for name in FORMATS}
    serving = {
        name: LLM(
            options.model,
            dtype=options.dtype,
            kv_cache_dtype=name,
            kv_cache_memory_bytes=1 << 30,
        )
        for name in FORMATS
    }
    try:
        for llm in serving.values():
            prompt = (llm.tokenizer.encode("A long story. ") * options.context)[: options.context]
            seconds(llm, prompt, 1, clock)
        for _ in range(ROUNDS):
            for name, llm in serving.items():
                first = seconds(llm, prompt, 1, clock)
                rates[name].append(TOKENS / (seconds(llm, prompt, TOKENS + 1, clock) - first))
    finally:
        for llm in serving.values():
            llm.close()
    own = median(rates[FORMATS[0]])
    for name, found in rates.items():
        print(
            f"{name}: {median(found):.1f} tokens/s ({min(found):.1f} to {max(found):.1f}),"
            f" {median(found) / own:.2f} times {FORMATS[0]}"
        )


if __name__ == "__main__":
    main()
