"""GGUF metadata as the config.json that the model's publisher wrote."""

import re
import struct
from pathlib import Path
from typing import Any

import pytest

from pieria.models.config import ModelConfig
from pieria.models.gguf import GgufFile, read_gguf
from pieria.models.gguf_config import hf_config
from pieria.models.keys import Keys
from pieria.models.registry import model_config
from pieria.models.stored_tensor import NumberFormat, StoredTensor

BASE: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.embedding_length": 64,
    "llama.block_count": 2,
    "llama.attention.head_count": 4,
    "llama.feed_forward_length": 96,
    "llama.context_length": 512,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "tokenizer.ggml.tokens": ["a", "b", "c"],
}


def opened(tensors: dict[str, StoredTensor] | None = None, **changes: Any) -> GgufFile:
    """changes: of `BASE`; None removes a key."""
    metadata = {**BASE, **changes}
    kept = {k: v for k, v in metadata.items() if v is not None}
    return GgufFile(Path("model.gguf"), 3, kept, tensors or {})


def tensor(format: str = "F32", shape: tuple[int, ...] = (8,), path: Path = Path("x")) -> Any:
    return StoredTensor(path, shape, NumberFormat(format, 1, 4), 0)


def as_model(config: dict[str, Any]) -> ModelConfig:
    return model_config(Keys(config, "config"))


def test_smollm2(smollm2: Path) -> None:
    """The values of the published config.json of SmolLM2-135M-Instruct."""
    config = hf_config(read_gguf(smollm2))
    assert config.pop("rms_norm_eps") == pytest.approx(1e-5)
    assert config == {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 64,
        "partial_rotary_factor": 1.0,
        "intermediate_size": 1536,
        "max_position_embeddings": 8192,
        "rope_theta": 100000.0,
        "rope_scaling": None,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def test_what_is_left_out_has_the_formats_defaults() -> None:
    config = hf_config(opened())
    assert config["num_key_value_heads"] == 4
    assert config["head_dim"] == 16
    assert config["rope_theta"] == 10000.0
    assert config["rope_scaling"] is None
    assert config["vocab_size"] == 3
    assert config["bos_token_id"] is None
    model = as_model(config)
    assert (model.family, model.tied, model.layers[0].mixer.rope.dim) == ("llama", True, 16)


def test_what_is_there_is_taken() -> None:
    changes = {
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 32,
        "llama.rope.dimension_count": 16,
        "llama.rope.freq_base": 500000.0,
    }
    names = {"output.weight": tensor(), "blk.0.attn_q.bias": tensor()}
    model = as_model(hf_config(opened(names, **changes)))
    attention = model.layers[1].mixer
    assert (attention.heads, attention.kv_heads, attention.head_dim) == (4, 2, 32)
    assert (attention.rope.dim, attention.rope.theta) == (16, 500000.0)
    assert attention.qkv_bias
    assert not model.tied


def test_qwen2() -> None:
    keys = {k.replace("llama.", "qwen2."): v for k, v in BASE.items()}
    file = GgufFile(Path("q"), 3, {**keys, "general.architecture": "qwen2"}, {})
    assert as_model(hf_config(file)).family == "qwen2"


@pytest.mark.parametrize(
    ("changes", "scaling"),
    [
        ({"llama.rope.scaling.type": "none"}, None),
        ({"llama.rope.scale_linear": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        (
            {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0},
            {"rope_type": "linear", "factor": 2.0},
        ),
        ({"llama.rope.scaling.factor": 2.0}, {"rope_type": "linear", "factor": 2.0}),
        ({"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 2.0}, None),
        ({"llama.rope.scaling.type": "linear"}, None),
        (
            {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 2.0},
            {"rope_type": "yarn", "factor": 2.0},
        ),
        (
            {
                "llama.rope.scaling.type": "yarn",
                "llama.rope.scaling.factor": 2.0,
                "llama.rope.scaling.original_context_length": 64,
                "llama.rope.scaling.yarn_beta_fast": 16.0,
                "llama.rope.scaling.yarn_attn_factor": 1.1,
            },
            {
                "rope_type": "yarn",
                "factor": 2.0,
                "original_max_position_embeddings": 64,
                "beta_fast": 16.0,
                "attention_factor": 1.1,
            },
        ),
    ],
)
def test_rope_scaling(changes: dict[str, Any], scaling: dict[str, Any] | None) -> None:
    assert hf_config(opened(**changes))["rope_scaling"] == scaling


def test_rope_factors(tmp_path: Path) -> None:
    factors = [1.0, 1.5, 2.0, 8.0, 8.0, 8.0, 8.0, 8.0]
    (tmp_path / "f").write_bytes(struct.pack("<8f", *factors))
    config = hf_config(opened({"rope_freqs.weight": tensor(path=tmp_path / "f")}))
    assert config["rope_scaling"] == {"rope_type": "factors", "factors": factors}
    assert as_model(config).layers[0].mixer.rope.factors == tuple(factors)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"general.architecture": "mamba"},
            "model.gguf: general.architecture='mamba' is not supported; there are: llama, qwen2",
        ),
        ({"general.architecture": None}, "model.gguf: general.architecture=None is not"),
        ({"llama.block_count": None}, "model.gguf: llama: block_count is missing"),
        ({"llama.block_count": "2"}, "block_count='2' must be a positive integer"),
        ({"llama.attention.head_count": [4, 4]}, "attention.head_count=[4, 4] must be"),
        (
            {"general.architecture": "qwen2", "qwen2.expert_count": 8},
            "expert_count=8: mixtures of experts are not supported",
        ),
        ({"llama.expert_count": True}, "num_local_experts=True must be a positive integer"),
        ({"tokenizer.ggml.tokens": None}, "model.gguf: there is no vocabulary"),
        (
            {"llama.attention.causal": False},
            "attention.causal=False: tokens see what is before them in this architecture",
        ),
        ({"llama.rope.scaling.attn_factor": 1.2}, "rope.scaling.attn_factor=1.2: it is not"),
        ({"llama.attention.sliding_window_pattern": 4}, "attention.sliding_window_pattern=4: it"),
    ],
)
def test_what_cannot_be_told_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        as_model(hf_config(opened(**changes)))


def test_llamas_architecture_with_experts_is_mixtral() -> None:
    experts = {"llama.expert_count": 4, "llama.expert_used_count": 2}
    config = hf_config(opened(**experts))
    assert (config["architectures"], config["model_type"]) == (["MixtralForCausalLM"], "mixtral")
    made = as_model(config)
    assert (made.layers[0].mlp.experts, made.layers[0].mlp.top) == (4, 2)
    assert as_model(hf_config(opened(**{"llama.expert_count": 0}))).family == "llama"


@pytest.mark.parametrize(
    ("factors", "changes"),
    [
        (tensor("F16"), {}),
        (tensor(shape=(2, 4)), {}),
        (tensor(), {"llama.rope.scaling.factor": 2.0}),
    ],
)
def test_strange_rope_factors_are_refused(factors: Any, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"rope_freqs\.weight must be one row of F32"):
        hf_config(opened({"rope_freqs.weight": factors}, **changes))
