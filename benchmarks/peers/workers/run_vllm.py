"""vLLM, in process. settings: arguments of its `LLM`."""

from protocol import Generate, serve
from vllm import LLM, SamplingParams


def load(model: str, settings: dict) -> Generate:
    llm = LLM(model, **settings)

    def generate(prompts: list[list[int]], tokens: int) -> list[list[int]]:
        params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        outputs = llm.generate(asked, params, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]

    return generate


if __name__ == "__main__":
    serve(load)
