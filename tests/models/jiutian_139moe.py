"""JIUTIAN-139MoE in plain torch, float64, one token and one head at a time.

Written from a description of the vendor's modeling_jiutian.py, independently of the package: the
oracle of its family. Made small by its config.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

CONFIG: dict[str, Any] = {
    "architectures": ["JiutianForCausalLM"],
    "model_type": "jiutian",
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 204,
    "rope_theta": 10000.0,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-8,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "sliding_window": None,
    "use_cope": False,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 0,
    "torch_dtype": "float64",
}


def weights(seed: int = 0) -> dict[str, Tensor]:
    """Random tensors under the published names. Expert 0 is full, 1 is empty, the rest are half."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int, scale: float = 0.2) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64) * scale

    hidden, full = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    vocabulary = CONFIG["vocab_size"]
    made = {
        "model.embed_tokens.weight": random(vocabulary, hidden, scale=1.0),
        "model.norm.weight": 1 + random(hidden),
        "lm_head.weight": random(vocabulary, hidden),
    }
    for i in range(CONFIG["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        made[layer + "input_layernorm.weight"] = 1 + random(hidden)
        made[layer + "post_attention_layernorm.weight"] = 1 + random(hidden)
        for name in "qkvo":
            made[layer + f"self_attn.{name}_proj.weight"] = random(hidden, hidden)
        moe = layer + "block_sparse_moe."
        made[moe + "gate.weight"] = random(8, hidden)
        for e in (0, 2, 3, 4, 5, 6, 7):
            size = full if e == 0 else full // 2
            made[moe + f"experts.{e}.w1.weight"] = random(size, hidden)
            made[moe + f"experts.{e}.w3.weight"] = random(size, hidden)
            made[moe + f"experts.{e}.w2.weight"] = random(hidden, size)
    return made


def save(made: dict[str, Tensor], folder: Path) -> Path:
    save_file(made, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def logits(made: dict[str, Tensor], tokens: list[int]) -> Tensor:
    """[T, V] of one sequence."""
    x = [made["model.embed_tokens.weight"][t] for t in tokens]
    for i in range(CONFIG["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        normed = [_norm(row, made[layer + "input_layernorm.weight"]) for row in x]
        mixed = _attention(made, layer + "self_attn.", normed)
        x = [row + more for row, more in zip(x, mixed, strict=True)]
        weight = made[layer + "post_attention_layernorm.weight"]
        x = [row + experts(made, layer, _norm(row, weight))[0] for row in x]
    return torch.stack(
        [made["lm_head.weight"] @ _norm(row, made["model.norm.weight"]) for row in x]
    )


def experts(made: dict[str, Tensor], layer: str, x: Tensor) -> tuple[Tensor, bool]:
    """(what one token gets; whether it went to the full expert)."""
    moe = layer + "block_sparse_moe."
    probabilities = torch.softmax(made[moe + "gate.weight"] @ x, 0)
    best = sorted(range(8), key=lambda e: (-float(probabilities[e]), e))[:2]
    if 0 in best or 1 in best:
        return _feed_forward(made, moe + "experts.0.", x), True
    first, second = (math.exp(float(probabilities[e])) for e in best)
    share = first / (first + second)
    outputs = [_feed_forward(made, moe + f"experts.{e}.", x) for e in best]
    return share * outputs[0] + (1 - share) * outputs[1], False


def _feed_forward(made: dict[str, Tensor], expert: str, x: Tensor) -> Tensor:
    gate, up = made[expert + "w1.weight"] @ x, made[expert + "w3.weight"] @ x
    return made[expert + "w2.weight"] @ (gate / (1 + torch.exp(-gate)) * up)


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / torch.sqrt((x * x).mean() + CONFIG["rms_norm_eps"]) * weight


def _attention(made: dict[str, Tensor], name: str, x: list[Tensor]) -> list[Tensor]:
    heads = CONFIG["num_attention_heads"]
    size = CONFIG["hidden_size"] // heads
    q, k, v = ([made[f"{name}{n}_proj.weight"] @ row for row in x] for n in "qkv")
    out = []
    for t in range(len(x)):
        parts = []
        for h in range(heads):
            span = slice(h * size, (h + 1) * size)
            query = _turned(q[t][span], t)
            scores = torch.stack([query @ _turned(k[s][span], s) for s in range(t + 1)])
            shares = torch.softmax(scores / math.sqrt(size), 0)
            parts.append(sum(share * v[s][span] for s, share in enumerate(shares)))
        out.append(made[name + "o_proj.weight"] @ torch.cat(parts))
    return out


def _turned(x: Tensor, position: int) -> Tensor:
    """Dimension i with dimension i + half, by position * theta^(-2i/size)."""
    half = len(x) // 2
    out = x.clone()
    for i in range(half):
        angle = position * CONFIG["rope_theta"] ** (-2 * i / len(x))
        cos, sin = math.cos(angle), math.sin(angle)
        out[i] = x[i] * cos - x[i + half] * sin
        out[i + half] = x[i + half] * cos + x[i] * sin
    return out
