"""Qwen3-Next and Qwen3.5 against transformers, from all kinds of files, cut over ranks, counted on
the meta device.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from pieria import ops
from pieria.models.cache_spec import Array
from pieria.models.checkpoint import open_checkpoint
from pieria.models.config import AttentionConfig, DeltaConfig, MlpConfig, MoeConfig
from pieria.models.context import Packed
from pieria.models.keys import Keys
from pieria.models.loader import build
from pieria.models.registry import model_config
from pieria.parallel.mesh import Mesh
from tests.models import tiny
from tests.models.meshed import check_logits
from tests.models.test_families import TOLERANCE, error, ours, read

DELTA = {
    "num_hidden_layers": 4,
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 12,
}
EXPERTS = {
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 20,
}
OTHERWISE = {
    "layer_types": ["full_attention", "linear_attention", "full_attention", "linear_attention"],
    "linear_num_value_heads": 2,
    "linear_conv_kernel_dim": 2,
    "attention_bias": True,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 500.0,
        "partial_rotary_factor": 0.5,
    },
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "next": ("Qwen3Next", {**DELTA, **EXPERTS}),
    "next in some layers": (
        "Qwen3Next",
        {**DELTA, **EXPERTS, "mlp_only_layers": [1], "norm_topk_prob": False},
    ),
    "next otherwise": ("Qwen3Next", {**DELTA, **EXPERTS, **OTHERWISE}),
    "3.5 moe": ("Qwen3_5Moe", {**DELTA, **EXPERTS}),
    "3.5 dense": ("Qwen3_5", {**DELTA, "tie_word_embeddings": True}),
    "3.5 otherwise": ("Qwen3_5", {**DELTA, **OTHERWISE}),
}
TOKENS = torch.randint(0, 203, (150,), generator=torch.Generator().manual_seed(1))
"""More than two chunks of either implementation."""


def varied(made: Any) -> Any:
    """Heads that remember a whole prompt beside some that forget at once; taps that are felt."""
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith("A_log"):
                parameter.copy_(torch.linspace(-7, 1, len(parameter)))
            if "conv1d" in name:
                parameter.mul_(3)
    return made


def oracle(name: str, dtype: torch.dtype = torch.float32) -> Any:
    kind, config = CASES[name]
    return varied(tiny.model(kind, dtype, **config))


def save(made: Any, folder: Path, **config: Any) -> Path:
    """Without the size of dense networks where there are none."""
    if made.config.model_type == "qwen3_5_moe_text":
        config["intermediate_size"] = None
    return tiny.save(made, folder, **config)


@pytest.mark.parametrize("backend", [(), ("torch",)], ids=["reference", "torch"])
@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_transformers(
    name: str, backend: tuple[str, ...], tmp_path: Path
) -> None:
    made = oracle(name)
    model = read(save(made, tmp_path), torch.float32)
    ops.use(*backend)
    found = ours(model, TOKENS)
    ops.use()
    assert error(found, tiny.logits(made, TOKENS)) <= TOLERANCE[torch.float32]


def test_what_is_narrow_is_no_worse_than_in_transformers(tmp_path: Path) -> None:
    """The states and what they are made with are wide in both."""
    made = oracle("next")
    wanted = ours(read(save(made, tmp_path), torch.float64), TOKENS)
    model = read(tmp_path, torch.bfloat16)
    mixer = model.layers["0"].mixer
    assert mixer.rates.log.dtype == mixer.rates.bias.dtype == torch.float32
    assert mixer.value_taps.weight.dtype == mixer.norm.weight.dtype == torch.bfloat16
    theirs = error(tiny.logits(made.bfloat16(), TOKENS), wanted)
    assert error(ours(model, TOKENS), wanted) <= 1.25 * theirs


def test_keys_of_the_first_files(tmp_path: Path) -> None:
    """As Qwen3-Next was published: layers by their interval, the rope by keys of its own."""
    made = oracle("next")
    save(
        made,
        tmp_path,
        layer_types=None,
        rope_parameters=None,
        rope_theta=10000,
        rope_scaling=None,
        partial_rotary_factor=0.25,
        full_attention_interval=4,
    )
    found = ours(read(tmp_path, torch.float32), TOKENS)
    assert error(found, tiny.logits(made, TOKENS)) <= TOLERANCE[torch.float32]


def seeing() -> Any:
    """Qwen3.5 with experts, and with eyes."""
    plain = {k: v for k, v in tiny.SHAPE.items() if k != "intermediate_size"}
    eyes = {"depth": 1, "hidden_size": 32, "num_heads": 2, "out_hidden_size": 64}
    config = transformers.Qwen3_5MoeConfig(
        text_config={**plain, **DELTA, **EXPERTS},
        vision_config={**eyes, "intermediate_size": 32, "num_position_embeddings": 16},
    )
    torch.manual_seed(3)
    made = transformers.Qwen3_5MoeForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in made.model.language_model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    return varied(made)


def test_the_text_part_of_a_model_that_sees(tmp_path: Path) -> None:
    """With the layers that predict further tokens, which transformers drops."""
    made = seeing()
    save(made, tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    assert any(name.startswith("model.visual.") for name in tensors)
    save_file({**tensors, "mtp.fc.weight": torch.ones(2), "mtp.layers.0.x": torch.ones(2)}, file)
    model = read(tmp_path, torch.float32)
    assert (model.config.family, model.config.context) == ("qwen3_5", 512)
    assert error(ours(model, TOKENS), tiny.logits(made, TOKENS)) <= TOLERANCE[torch.float32]


def test_stacked_experts_are_those_by_number(tmp_path: Path) -> None:
    """Qwen3.5 is published with one tensor for all experts of a layer."""
    save(oracle("3.5 moe"), tmp_path)
    wanted = ours(read(tmp_path, torch.float32), TOKENS)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    for layer in range(4):
        start = f"model.layers.{layer}.mlp.experts."
        gate, up, down = (
            torch.stack([tensors.pop(f"{start}{e}.{part}_proj.weight") for e in range(6)])
            for part in ("gate", "up", "down")
        )
        tensors[start + "gate_up_proj"] = torch.cat([gate, up], 1)
        tensors[start + "down_proj"] = down
    save_file(tensors, file)
    assert torch.equal(ours(read(tmp_path, torch.float32), TOKENS), wanted)
    part = read(tmp_path, torch.float32, Mesh(tp=2, ep=3, rank=5))
    whole = read(tmp_path, torch.float32).layers["1"].mlp.experts
    assert torch.equal(part.layers["1"].mlp.experts.up.weight, whole.up.weight[4:, 12:])
    del tensors["model.layers.2.mlp.experts.down_proj"]
    save_file(tensors, file)
    with pytest.raises(ValueError, match=r"missing: model\.layers\.2\.mlp\.experts\.down_proj;"):
        read(tmp_path, torch.float32)


@pytest.mark.parametrize("name", ["next", "3.5 dense"])
def test_each_rank_reads_its_part(name: str, tmp_path: Path) -> None:
    save(oracle(name), tmp_path)
    whole = read(tmp_path, torch.float32)
    logical = whole.logical()
    for mesh in (Mesh(tp=2, rank=0), Mesh(tp=2, rank=1)):
        parts = dict(read(tmp_path, torch.float32, mesh).named_parameters())
        assert parts.keys() == dict(whole.named_parameters()).keys()
        for weight_name, weight in whole.named_parameters():
            spans = logical[weight_name].shard.spans(weight.shape, mesh)
            for dim, (first, last) in enumerate(spans):
                weight = weight.narrow(dim, first, last - first)
            assert torch.equal(parts[weight_name], weight), weight_name
    cut = {n.split(".", 2)[2] for n, w in logical.items() if "mixer" in n and w.shard.cuts}
    kept = {n.split(".", 2)[2] for n, w in logical.items() if "mixer" in n and not w.shard.cuts}
    assert kept == {"mixer_norm.weight", *(f"mixer.{n}norm.weight" for n in ("", "q_", "k_"))}
    assert {"mixer.gate.weight", "mixer.rates.log", "mixer.value_taps.weight"} <= cut


def test_parts_that_do_not_fit_are_named(tmp_path: Path) -> None:
    save(oracle("next"), tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.0.linear_attn.in_proj_qkvz.weight"
    save_file({**tensors, name: tensors[name][1:].clone()}, file)
    message = f"tensor {name} has shape (175, 64), the config wants (176, 64)"
    with pytest.raises(ValueError, match=re.escape(message)):
        read(tmp_path, torch.float32)


@pytest.mark.dist
def test_ranks_together_give_the_logits_of_one(tmp_path: Path) -> None:
    wanted = {}
    for name in ("next", "3.5 dense"):
        folder = save(oracle(name, torch.float64), tmp_path / name)
        wanted[folder] = ours(read(folder, torch.float64), TOKENS)
    check_logits(wanted, TOKENS, tmp_path / "store", tp=2, ep=1)


def test_the_meta_device_gives_shapes_and_costs(tmp_path: Path) -> None:
    save(oracle("next"), tmp_path)
    model = build(open_checkpoint(tmp_path), Mesh(tp=2, rank=1), torch.bfloat16)
    tokens = torch.empty(10, dtype=torch.int64, device="meta")
    context = Packed(torch.empty(10, dtype=torch.int64, device="meta"), (7, 3))
    with ops.trace() as calls:
        assert model(tokens, context).shape == (10, 64)
    found = [call for call in calls if call.op is ops.gated_delta]
    # Three of six heads; a state of 8 x 12 is decayed, read, corrected and read again.
    assert [call.cost.flops for call in found] == [7 * 10 * 3 * 8 * 12] * 3
    assert sum(call.op is ops.causal_conv for call in calls) == 3 * 3
    assert sum(call.op is ops.attention for call in calls) == 1
    assert all(call.cost.bytes > 0 for call in found)


@pytest.mark.parametrize(
    ("dtype", "wide"),
    [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)],
)
@pytest.mark.parametrize("tp", [1, 2])
def test_what_is_remembered(dtype: torch.dtype, wide: torch.dtype, tp: int, tmp_path: Path) -> None:
    save(oracle("next"), tmp_path)
    model = build(open_checkpoint(tmp_path), Mesh(tp=tp), dtype)
    delta, *_, attention = model.cache_specs(torch.float16)
    assert not delta.token and delta.state == (
        Array("query_before", (3, 2 * 8 // tp), dtype),
        Array("key_before", (3, 2 * 8 // tp), dtype),
        Array("value_before", (3, 6 * 12 // tp), dtype),
        Array("state", (6 // tp, 8, 12), wide),
    )
    channels = 2 * 2 * 8 + 6 * 12
    sizes = 3 * channels * dtype.itemsize + 6 * 8 * 12 * wide.itemsize
    assert delta.nbytes(1) == delta.nbytes(1000) == sizes // tp
    assert attention.token == tuple(Array(n, (2 // tp, 16), torch.float16) for n in "kv")


PUBLISHED = {
    "architectures": ["Qwen3_5MoeForConditionalGeneration"],
    "model_type": "qwen3_5_moe",
    "tie_word_embeddings": False,
    "text_config": {
        "attention_bias": False,
        "attn_output_gate": True,
        "full_attention_interval": 4,
        "head_dim": 256,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 10,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 128,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 32,
        "linear_value_head_dim": 128,
        "max_position_embeddings": 262144,
        "model_type": "qwen3_5_moe_text",
        "moe_intermediate_size": 512,
        "mtp_num_hidden_layers": 1,
        "num_attention_heads": 16,
        "num_experts": 256,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 40,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_parameters": {
            "mrope_interleaved": True,
            "mrope_section": [11, 11, 10],
            "partial_rotary_factor": 0.25,
            "rope_theta": 10000000,
            "rope_type": "default",
        },
        "shared_expert_intermediate_size": 512,
        "vocab_size": 248320,
    },
}
"""The keys of Qwen3.5-35B-A3B that say what its text part is."""


def with_text(**changes: Any) -> Keys:
    """A key set to None is left out."""
    text = {**json.loads(json.dumps(PUBLISHED["text_config"])), **changes}
    kept = {key: value for key, value in text.items() if value is not None}
    return Keys({**PUBLISHED, "text_config": kept}, "config.json")


def test_the_published_keys() -> None:
    config = model_config(with_text())
    assert (config.hidden, config.vocabulary, config.tied) == (2048, 248320, False)
    delta, attention = config.layers[0].mixer, config.layers[3].mixer
    assert isinstance(delta, DeltaConfig) and isinstance(attention, AttentionConfig)
    assert (delta.heads, delta.key_heads, delta.taps) == (32, 16, 4)
    assert attention.rope is not None and attention.gated
    assert (attention.rope.dim, attention.rope.theta) == (64, 1e7)
    assert config.layers[3::4] == (config.layers[3],) * 10
    moe = config.layers[0].mlp
    assert isinstance(moe, MoeConfig) and moe.shared == MlpConfig(512, "silu")
    assert (moe.experts, moe.top, moe.renormalise, moe.shared_gate) == (256, 8, True, True)
    assert model_config(with_text(layer_types=None)) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attn_output_gate": False}, "attn_output_gate=False"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"layer_types": ["full_attention"]}, "must be 40 of full_attention, linear_attention"),
        ({"layer_types": ["sliding_attention"] * 40}, "layer_types="),
        ({"linear_num_key_heads": 12}, "layer 0: 32 attention heads do not divide over 12"),
        ({"linear_conv_kernel_dim": 0}, "linear_conv_kernel_dim=0 must be a positive integer"),
        ({"num_experts_per_tok": None}, "intermediate_size is missing"),
        ({"num_experts_per_tok": 257}, "top=257 must be in 1..256"),
        ({"head_dim": 252}, "layer 3: rope of 63 dimensions in heads of 252"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        model_config(with_text(**changes))


def test_key_heads_that_do_not_divide_are_named(tmp_path: Path) -> None:
    save(oracle("next"), tmp_path)
    message = "layers.0.mixer.query.weight: 16 rows in groups of 8 (column cut, dimension 0 of"
    with pytest.raises(ValueError, match=re.escape(message)):
        build(open_checkpoint(tmp_path), Mesh(tp=4), torch.float32)
