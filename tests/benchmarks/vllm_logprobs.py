"""Run by vLLM's own interpreter: a model's log-probabilities of some tokens, as JSON.

python vllm_logprobs.py MODEL DTYPE TOKENS, where TOKENS is a JSON list of ids.
"""

import json
import sys


def main() -> None:
    from vllm import LLM, SamplingParams

    tokens = json.loads(sys.argv[3])
    llm = LLM(
        model=sys.argv[1],
        dtype=sys.argv[2],
        max_model_len=128,
        enforce_eager=True,
        enable_prefix_caching=False,
    )
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    [output] = llm.generate([{"prompt_token_ids": tokens}], params, use_tqdm=False)
    found = zip(tokens[1:], output.prompt_logprobs[1:], strict=True)
    print("FOUND", json.dumps([several[token].logprob for token, several in found]))


if __name__ == "__main__":
    main()
