"""JIUTIAN-139MoE: Llama's form without grouped heads, and experts of which one has an empty twin.

Expert 0 is as wide as two of the others. It is kept as its halves, experts 0 and 1 here: a network
gated feature by feature is the sum of its parts. A token that chooses expert 0 or the twin goes to
both halves; see `ops.route`. Source: modeling_jiutian.py of JiuTian-AI/JIUTIAN-139MoE-chat, of the
same architecture's name as the dense models of `jiutian`.
"""

from dataclasses import replace

from pieria.models import llama
from pieria.models.config import ModelConfig, MoeConfig
from pieria.models.keys import Keys
from pieria.models.names import Names, Source

EXPERTS = 8
CHOSEN = 2


def _halves_and_others(matrix: str, dim: int) -> tuple[Source, ...]:
    """Where each expert's matrix is; the features inside experts are its dimension `dim`."""
    name = "model.layers.{{}}.block_sparse_moe.experts.{}.{}.weight"
    halves = (Source(name.format(0, matrix), part, 2, dim) for part in range(2))
    return *halves, *(Source(name.format(i, matrix)) for i in range(2, EXPERTS))


NAMES: Names = {
    **llama.NAMES,
    "layers.{}.mlp.router": "model.layers.{}.block_sparse_moe.gate",
    "layers.{}.mlp.experts.gate.weight": _halves_and_others("w1", 0),
    "layers.{}.mlp.experts.up.weight": _halves_and_others("w3", 0),
    "layers.{}.mlp.experts.down.weight": _halves_and_others("w2", 1),
}
GGUF_INTERLEAVED: tuple[str, ...] = ()


def from_hf(keys: Keys) -> ModelConfig:
    keys.refuse("use_cope", "positions that depend on content are not supported")
    keys.refuse("sliding_window", "windows are not supported in this family")
    for key, wanted in (("num_local_experts", EXPERTS), ("num_experts_per_tok", CHOSEN)):
        if (found := keys.integer(key)) != wanted:
            raise ValueError(f"{keys.source}: {key}={found} must be {wanted} in JIUTIAN-139MoE")
    size = keys.integer("intermediate_size")
    if size % 2:
        raise ValueError(f"{keys.source}: intermediate_size={size} must be even")
    moe = MoeConfig(
        experts=EXPERTS,
        top=CHOSEN,
        size=size // 2,
        score="twin",
        activation=keys.choice("hidden_act", llama.ACTIVATIONS, "silu"),
    )
    dense = llama.uniform(keys, "jiutian_moe", qkv_bias=False)
    return replace(dense, layers=tuple(replace(layer, mlp=moe) for layer in dense.layers))
