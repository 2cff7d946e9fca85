"""transformers' own `generate`, prompts padded into one batch. settings: dtype and threads."""

import torch
from protocol import Generate, serve
from transformers import AutoModelForCausalLM


def load(model: str, settings: dict) -> Generate:
    torch.set_num_threads(settings["threads"])
    loaded = AutoModelForCausalLM.from_pretrained(
        model, dtype=getattr(torch, settings["dtype"]), attn_implementation="sdpa"
    ).eval()

    def generate(prompts: list[list[int]], tokens: int) -> list[list[int]]:
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor(
            [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        )
        with torch.inference_mode():
            found = loaded.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
                pad_token_id=0,
                eos_token_id=None,
            )
        return found[:, longest:].tolist()

    return generate


if __name__ == "__main__":
    serve(load)
