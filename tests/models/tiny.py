"""Small random models, made by transformers and written as their users would:

The oracle of the model tests.
"""

import json
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from torch import Tensor, nn

SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 204,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def model(kind: str, dtype: torch.dtype = torch.float32, seed: int = 0, **config: Any) -> Any:
    """A random transformers model of `kind` ("Llama", "Qwen2"). Biases and norms are random too."""
    made_by = getattr(transformers, f"{kind}ForCausalLM")
    settings = made_by.config_class(**{**SHAPE, **config})
    torch.manual_seed(seed)
    made = made_by(settings).to(dtype).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
            else:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
        for name, buffer in made.named_buffers():
            if name.endswith("bias"):  # such as what chooses experts
                buffer.add_(torch.randn_like(buffer) * 0.3)
    return made


def save(made: Any, folder: Path, **config: Any) -> Path:
    """Written as safetensors; `config` overrides keys of config.json, None removes one."""
    made.save_pretrained(folder)
    file = folder / "config.json"
    keys = {**json.loads(file.read_text()), **config}
    file.write_text(json.dumps({k: v for k, v in keys.items() if v is not None}))
    return folder


class JiutianNorm(nn.Module):
    """The vendor's norm: x / (rms(x) + eps), cast, then scaled; eps outside of the root."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight = norm.weight
        self.eps = norm.variance_epsilon

    def forward(self, x: Tensor) -> Tensor:
        wide = x.double()
        root = wide.norm(2, dim=-1, keepdim=True) * wide.shape[-1] ** -0.5
        return self.weight * (wide / (root + self.eps)).to(x.dtype)


def jiutian(**config: Any) -> Any:
    """transformers' Qwen2 with Jiutian's norm in it."""
    made = model("Qwen2", **config)
    for layer in made.model.layers:
        layer.input_layernorm = JiutianNorm(layer.input_layernorm)
        layer.post_attention_layernorm = JiutianNorm(layer.post_attention_layernorm)
    made.model.norm = JiutianNorm(made.model.norm)
    return made


def logits(made: Any, tokens: Tensor) -> Tensor:
    """[T, V] of one sequence."""
    with torch.no_grad():
        found: Tensor = made(tokens[None]).logits[0]
    return found


def write_tokenizer(folder: Path) -> None:
    """A byte-level vocabulary without merges beside a model, so that a checkpoint is complete."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    words = ["<unk>", "<s>", "</s>", *alphabet][: SHAPE["vocab_size"]]
    vocabulary = {text: id for id, text in enumerate(words)}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
