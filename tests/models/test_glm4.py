"""GLM-4 against transformers, through both formats; what its configs may say."""

import re
from math import prod
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file

from pieria import ops
from pieria.models import glm4
from pieria.models.config import ModelConfig
from pieria.models.context import Packed
from pieria.models.decoder import Decoder
from pieria.models.keys import Keys
from pieria.parallel.mesh import Mesh
from tests.models import as_gguf, tiny
from tests.models.test_families import TOLERANCE, error, ours, read
from tests.models.traced import norms, product_flops

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "four norms": ("Glm4", {"head_dim": 24}),
    "two norms": ("Glm", {"head_dim": 24}),
    "no biases": ("Glm4", {"head_dim": 16, "attention_bias": False, "tie_word_embeddings": True}),
    "a quarter turns": (
        "Glm4",
        {
            "head_dim": 24,
            "rope_parameters": {"rope_theta": 1e3, "partial_rotary_factor": 0.25},
        },
    ),
}
TOKENS = torch.randint(0, 203, (40,), generator=torch.Generator().manual_seed(1))


def saved(name: str, folder: Path, **changes: Any) -> tuple[Any, Path]:
    """The oracle of a case, and its folder. changes: of its config.json."""
    kind, config = CASES[name]
    oracle = tiny.model(kind, pad_token_id=0, **config)
    return oracle, tiny.save(oracle, folder, **changes)


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    oracle, folder = saved(name, tmp_path)
    found = ours(read(folder, torch.float32), TOKENS)
    assert error(found, tiny.logits(oracle, TOKENS)) <= TOLERANCE[torch.float32]


def test_older_files_state_the_turning_part_beside_the_theta(tmp_path: Path) -> None:
    oracle, folder = saved(
        "a quarter turns",
        tmp_path,
        rope_parameters=None,
        rope_theta=1e3,
        partial_rotary_factor=0.25,
    )
    found = ours(read(folder, torch.float32), TOKENS)
    assert error(found, tiny.logits(oracle, TOKENS)) <= TOLERANCE[torch.float32]
    tiny.save(oracle, tmp_path, rope_parameters=None, rope_theta=1e3)  # then it is half
    assert error(ours(read(folder, torch.float32), TOKENS), found) > 1e-2


PUBLISHED: dict[str, Any] = {
    "architectures": ["Glm4ForCausalLM"],
    "attention_bias": True,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 13696,
    "max_position_embeddings": 32768,
    "model_type": "glm4",
    "num_attention_heads": 32,
    "num_hidden_layers": 40,
    "num_key_value_heads": 2,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "vocab_size": 151552,
}
"""GLM-4-9B-0414."""


def config_of(**changes: Any) -> ModelConfig:
    return glm4.from_hf(Keys({**PUBLISHED, **changes}, "config.json"))


def test_the_published_model() -> None:
    config = config_of()
    sizes = [prod(w.shape) for w in Decoder(config, Mesh(), torch.bfloat16).logical().values()]
    assert sum(sizes) == 9_400_279_040
    assert config.layers[0].post_norms
    rope = config.layers[0].mixer.rope
    assert rope is not None and (rope.dim, rope.interleaved) == (64, True)
    assert not config_of(model_type="glm").layers[0].post_norms


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "chatglm"}, "model_type='chatglm' is not supported; there are: glm, glm4"),
        ({"partial_rotary_factor": 0}, "partial_rotary_factor=0 must be a positive number"),
        ({"partial_rotary_factor": 0.42}, "rope of 53 dimensions in heads of 128"),
    ],
)
def test_what_is_not_supported_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        config_of(**changes)


def test_a_fused_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    _, folder = saved("four norms", tmp_path)
    file = folder / "model.safetensors"
    name = "model.layers.1.mlp.gate_up_proj.weight"
    save_file({**load_file(file), name: torch.ones(255, 64)}, file)
    message = f"tensor {name} has shape (255, 64), the config wants (256, 64)"
    with pytest.raises(ValueError, match=re.escape(message)):
        read(folder, torch.float32)


def as_glm4(writer: gguf.GGUFWriter) -> None:
    writer.add_key_length(24)
    writer.add_rope_dimension_count(12)
    writer.add_rope_freq_base(10000.0)


def as_chatglm(writer: gguf.GGUFWriter) -> None:
    """Heads have the size that the width implies."""
    writer.add_rope_dimension_count(8)
    writer.add_rope_freq_base(10000.0)


@pytest.mark.parametrize(
    ("kind", "size", "arch", "add"),
    [("Glm4", 24, "glm4", as_glm4), ("Glm", 16, "chatglm", as_chatglm)],
)
def test_gguf_and_safetensors_give_equal_logits(
    kind: str, size: int, arch: str, add: Any, tmp_path: Path
) -> None:
    oracle = tiny.model(kind, pad_token_id=0, head_dim=size)
    plain = tiny.save(oracle, tmp_path / "plain")
    path = as_gguf.write(tmp_path / "model.gguf", arch, oracle, add)
    found = ours(read(path, torch.float32), TOKENS)
    assert error(found, ours(read(plain, torch.float32), TOKENS)) <= 1e-6
    assert error(found, tiny.logits(oracle, TOKENS)) <= TOLERANCE[torch.float32]


def test_two_ranks_have_the_weights_between_them(tmp_path: Path) -> None:
    oracle, folder = saved("four norms", tmp_path)
    whole = read(folder, torch.float32)
    halves = [read(folder, torch.float32, Mesh(tp=2, rank=r)) for r in range(2)]
    for name, weight in whole.named_parameters():
        parts = [dict(half.named_parameters())[name] for half in halves]
        cut = whole.logical()[name].shard.cut("tp")
        if cut is None:
            assert all(torch.equal(part, weight) for part in parts)
        else:
            assert torch.equal(torch.cat(parts, cut.dim), weight)
    fused = oracle.model.layers[2].mlp.gate_up_proj.weight
    second = halves[1].get_submodule("layers.2.mlp")
    assert torch.equal(second.gate.weight, fused[64:128])
    assert torch.equal(second.up.weight, fused[192:])


def test_a_trace_on_the_meta_device_counts_every_product() -> None:
    config = config_of(num_hidden_layers=2)
    model = Decoder(config, Mesh(), torch.bfloat16)
    with ops.trace() as calls:
        hidden = model(torch.zeros(8, dtype=torch.int64, device="meta"), Packed.of((5, 3), "meta"))
    assert hidden.shape == (8, 4096)
    matrices = [
        prod(w.shape)
        for name, w in model.logical().items()
        if name.startswith("layers.") and len(w.shape) == 2
    ]
    assert product_flops(calls) == 2 * 8 * sum(matrices)
    assert norms(calls) == 2 * 4 + 1
