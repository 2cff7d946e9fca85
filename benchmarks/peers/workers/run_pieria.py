"""Pieria, in process. settings: options of `LLM`."""

from protocol import Generate, serve

from pieria import LLM, SamplingParams


def load(model: str, settings: dict) -> Generate:
    llm = LLM(model, **settings)

    def generate(prompts: list[list[int]], tokens: int) -> list[list[int]]:
        params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
        outputs = llm.generate(prompts, params, progress=False)
        return [output.outputs[0].token_ids for output in outputs]

    return generate


if __name__ == "__main__":
    serve(load)
