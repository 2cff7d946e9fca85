"""Every family against transformers:

Logits of small random models, read from the files it writes.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pieria.models.checkpoint import open_checkpoint
from pieria.models.context import Packed
from pieria.models.decoder import Decoder
from pieria.models.loader import build, load
from pieria.parallel.mesh import Mesh
from tests.models import tiny

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 1e-1, torch.float16: 1.2e-2}
"""Largest |difference| / largest |logit|, rounding of the weights included. float64 is bounded by
rotary angles, which are float32 in both.
"""

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}
WINDOWS = {
    "use_sliding_window": True,
    "sliding_window": 7,
    "max_window_layers": 1,
}
GPT_OSS = {
    "num_local_experts": 6,
    "num_experts_per_tok": 3,
    "head_dim": 16,
    "sliding_window": 7,
    "swiglu_limit": 0.9,
}
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 40}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama tied": ("Llama", {"tie_word_embeddings": True}),
    "llama biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama wide heads": ("Llama", {"head_dim": 24, "rms_norm_eps": 1e-3}),
    "llama one key head": ("Llama", {"num_key_value_heads": 1}),
    "llama gelu": ("Llama", {"hidden_act": "gelu_pytorch_tanh"}),
    "llama exact gelu": ("Llama", {"hidden_act": "gelu"}),
    "llama linear rope": (
        "Llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}},
    ),
    "llama yarn rope": ("Llama", {"rope_parameters": YARN_ROPE}),
    "llama 3 rope": ("Llama", {"rope_parameters": LLAMA3_ROPE}),
    "qwen2": ("Qwen2", {}),
    "qwen2 tied": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2 windows": ("Qwen2", WINDOWS),
    "qwen2 moe": (
        "Qwen2Moe",
        {**EXPERTS, "shared_expert_intermediate_size": 56, "norm_topk_prob": True},
    ),
    "qwen3": ("Qwen3", {"head_dim": 24}),
    "qwen3 biases": ("Qwen3", {"attention_bias": True, "tie_word_embeddings": True}),
    "qwen3 windows": ("Qwen3", WINDOWS),
    "qwen3 moe": ("Qwen3Moe", {**EXPERTS, "norm_topk_prob": True, "head_dim": 24}),
    "qwen3 moe as it is": ("Qwen3Moe", {**EXPERTS, "norm_topk_prob": False, "hidden_act": "gelu"}),
    "qwen3 moe in some layers": ("Qwen3Moe", {**EXPERTS, "mlp_only_layers": [1]}),
    "qwen3 moe in every other layer": ("Qwen3Moe", {**EXPERTS, "decoder_sparse_step": 2}),
    "qwen3 moe windows": ("Qwen3Moe", {**EXPERTS, **WINDOWS}),
    "mistral": ("Mistral", {"sliding_window": None, "head_dim": 24}),
    "mistral windows": ("Mistral", {"sliding_window": 7}),
    "mixtral": ("Mixtral", {"num_local_experts": 6, "num_experts_per_tok": 3}),
    "mixtral windows": ("Mixtral", {"num_local_experts": 4, "sliding_window": 7}),
    "gpt-oss": ("GptOss", GPT_OSS),
    "gpt-oss of another slope": ("GptOss", {**GPT_OSS, "swiglu_alpha": 1.2}),
    "gpt-oss windows": (
        "GptOss",
        {**GPT_OSS, "layer_types": ["full_attention", "sliding_attention", "sliding_attention"]},
    ),
}


def read(folder: Path, dtype: torch.dtype, mesh: Mesh | None = None) -> Decoder:
    checkpoint = open_checkpoint(folder)
    model = build(checkpoint, mesh or Mesh(), dtype)
    load(checkpoint, model, "cpu")
    return model


def ours(model: Decoder, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return model.logits(model(tokens, Packed.of((len(tokens),))))


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted.double()).abs().max() / wanted.double().abs().max())


def spread(found: Tensor, wanted: Tensor) -> float:
    """The root mean square of the difference."""
    return float((found.double() - wanted.double()).pow(2).mean().sqrt())


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    kind, config = CASES[name]
    oracle = tiny.model(kind, **config)
    tokens = torch.randint(0, 203, (40,), generator=torch.Generator().manual_seed(1))
    found = ours(read(tiny.save(oracle, tmp_path), torch.float32), tokens)
    assert error(found, tiny.logits(oracle, tokens)) <= TOLERANCE[torch.float32]


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_every_dtype_is_within_its_bound(dtype: torch.dtype, tmp_path: Path) -> None:
    oracle = tiny.model("Llama", torch.float64)
    tokens = torch.randint(0, 203, (40,), generator=torch.Generator().manual_seed(1))
    wanted = tiny.logits(oracle, tokens)
    found = ours(read(tiny.save(oracle, tmp_path), dtype), tokens)
    assert found.dtype == dtype
    assert error(found, wanted) <= TOLERANCE[dtype]
    if dtype != torch.float64:
        theirs = tiny.logits(oracle.to(dtype), tokens)
        assert spread(found, wanted) <= 1.25 * spread(theirs, wanted), "worse than transformers is"


@pytest.mark.parametrize("eps", [1e-5, 0.3])
def test_jiutian_is_qwen2_with_its_own_norm(eps: float, tmp_path: Path) -> None:
    oracle = tiny.jiutian(rms_norm_eps=eps)
    tiny.save(
        oracle,
        tmp_path,
        architectures=["JiutianForCausalLM"],
        model_type="jiutian",
        qkv_bias=True,
        # The vendor's class discards it.
        rope_scaling={"rope_type": "linear", "factor": 2.0},
        rope_theta=10000.0,
        rope_parameters=None,
    )
    tokens = torch.randint(0, 203, (40,), generator=torch.Generator().manual_seed(1))
    found = ours(read(tmp_path, torch.float32), tokens)
    assert error(found, tiny.logits(oracle, tokens)) <= TOLERANCE[torch.float32]


def test_eps_inside_the_root_would_be_seen(tmp_path: Path) -> None:
    oracle = tiny.jiutian(rms_norm_eps=0.3)
    tiny.save(oracle, tmp_path, architectures=["Qwen2ForCausalLM"])
    tokens = torch.arange(40)
    found = ours(read(tmp_path, torch.float32), tokens)
    assert error(found, tiny.logits(oracle, tokens)) > 1e-2


def test_a_window_changes_the_logits(tmp_path: Path) -> None:
    """Else the windowed case above would prove nothing."""
    tokens = torch.arange(40)
    plain = tiny.logits(tiny.model("Qwen2"), tokens)
    windowed = tiny.logits(tiny.model("Qwen2", **WINDOWS), tokens)
    assert error(windowed, plain) > 1e-2


def test_packed_sequences_do_not_see_each_other(tmp_path: Path) -> None:
    oracle = tiny.model("Llama", torch.float64)
    model = read(tiny.save(oracle, tmp_path), torch.float64)
    first, second = torch.arange(3, 20), torch.arange(50, 59)
    with torch.no_grad():
        packed = model.logits(model(torch.cat([first, second]), Packed.of((17, 9))))
    wanted = torch.cat([tiny.logits(oracle, first), tiny.logits(oracle, second)])
    assert error(packed, wanted) <= TOLERANCE[torch.float64]
