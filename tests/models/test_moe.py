"""Experts as parts of a model: cut over ranks, read from all kinds of files, counted on the meta
device.
"""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pieria import ops
from pieria.models.checkpoint import open_checkpoint
from pieria.models.config import MlpConfig, MoeConfig
from pieria.models.context import Packed
from pieria.models.decoder import Decoder
from pieria.models.keys import Keys
from pieria.models.loader import build
from pieria.models.registry import model_config
from pieria.parallel.mesh import Mesh
from tests.models import tiny
from tests.models.meshed import check_logits
from tests.models.test_families import CASES, ours, read

FAMILIES = ["mixtral", "qwen2 moe", "qwen3 moe in some layers", "gpt-oss"]
TOKENS = torch.randint(0, 203, (40,), generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    kind, config = CASES[request.param]
    return tiny.save(tiny.model(kind, torch.float64, **config), tmp_path)


def test_each_rank_reads_its_part(folder: Path) -> None:
    whole = dict(read(folder, torch.float64).named_parameters())
    meshes = [Mesh(tp=2, ep=2, rank=rank) for rank in range(4)]
    parts = [dict(read(folder, torch.float64, mesh).named_parameters()) for mesh in meshes]
    logical = read(folder, torch.float64).logical()
    kinds = set()
    for name, weight in whole.items():
        kinds.add(logical[name].shard.kind)
        for mesh, part in zip(meshes, parts, strict=True):
            wanted = weight
            for dim, (first, last) in enumerate(logical[name].shard.spans(weight.shape, mesh)):
                wanted = wanted.narrow(dim, first, last - first)
            assert torch.equal(part[name], wanted), name
    assert kinds == {"column", "row", "vocabulary", "replicated", "expert"}
    gate = next(name for name in whole if name.endswith("experts.gate.weight"))
    assert parts[0][gate].numel() * 4 == whole[gate].numel()


@pytest.mark.dist
def test_ranks_together_give_the_logits_of_one(tmp_path: Path) -> None:
    """Of models with biases everywhere, and with a gated shared expert."""
    wanted = {}
    for name in ("gpt-oss", "qwen2 moe"):
        kind, config = CASES[name]
        folder = tiny.save(tiny.model(kind, torch.float64, **config), tmp_path / kind)
        wanted[folder] = ours(read(folder, torch.float64), TOKENS)
    check_logits(wanted, TOKENS, tmp_path / "store", tp=2, ep=2)


def test_the_meta_device_gives_shapes_and_costs(folder: Path) -> None:
    model = build(open_checkpoint(folder), Mesh(tp=2, ep=2, rank=3), torch.bfloat16)
    tokens = torch.empty(10, dtype=torch.int64, device="meta")
    context = Packed(torch.empty(10, dtype=torch.int64, device="meta"), (7, 3))
    with ops.trace() as calls:
        assert model(tokens, context).shape == (10, 64)
    mixed = [layer.mlp for layer in model.config.layers if isinstance(layer.mlp, MoeConfig)]
    found = [call for call in calls if call.op is ops.experts]
    assert len(found) == len(mixed)
    for call, moe in zip(found, mixed, strict=True):
        # Half of the pairs are here, with half of the features.
        assert call.cost.flops == 6 * (10 * moe.top // 2) * 64 * moe.size // 2
    assert sum(call.op is ops.route for call in calls) == len(mixed)


def test_partial_sums_are_added_once(folder: Path) -> None:
    """Whatever a layer of experts computes, it ends with one sum over each of tp and ep."""
    model = build(open_checkpoint(folder), Mesh(tp=2, ep=2), torch.bfloat16)
    with ops.trace() as calls:
        model.layers["0"].mlp(torch.empty(5, 64, dtype=torch.bfloat16, device="meta"))
    axes = [call.arguments[1].axis for call in calls if call.op is ops.all_reduce]
    assert axes == ["tp", "ep"]


def test_routers_are_float32_in_a_narrow_model(folder: Path) -> None:
    """Rounded to bfloat16, close experts would be mistaken for each other."""
    model = read(folder, torch.bfloat16)
    router = model.layers["0"].mlp.router
    assert router.weight.dtype == torch.float32
    exact = dict(read(folder, torch.float64).named_parameters())["layers.0.mlp.router.weight"]
    assert torch.equal(router.weight, exact.float())
    assert not torch.equal(exact.bfloat16().float(), exact.float())
    assert model.layers["0"].mlp.experts.gate.weight.dtype == torch.bfloat16
    assert ours(model, TOKENS).isfinite().all()


def change(folder: Path, **changes: torch.Tensor | None) -> None:
    tensors: dict[str, Any] = {**load_file(folder / "model.safetensors"), **changes}
    kept = {k: v for k, v in tensors.items() if v is not None}
    save_file(kept, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"experts.5.w3.weight": None}, "missing: {}experts.5.w3.weight; left over: none"),
        ({"experts.6.w1.weight": torch.ones(2)}, "missing: none; left over: {}experts.6.w1.weight"),
        (
            {"experts.4.w2.weight": torch.ones(64, 64)},
            "tensor {}experts.4.w2.weight has shape (64, 64), the config wants (64, 128)",
        ),
    ],
)
@pytest.mark.parametrize("ep", [1, 2])
def test_tensors_that_do_not_fit_are_named(
    changes: Any, message: str, ep: int, tmp_path: Path
) -> None:
    """By the names in the file, also those of experts that other ranks read."""
    kind, config = CASES["mixtral"]
    tiny.save(tiny.model(kind, **config), tmp_path)
    prefix = "model.layers.1.block_sparse_moe."
    change(tmp_path, **{prefix + name: tensor for name, tensor in changes.items()})
    with pytest.raises(ValueError, match=re.escape(message.format(prefix))):
        read(tmp_path, torch.float32, Mesh(ep=ep))


def test_experts_that_do_not_divide_are_named(tmp_path: Path) -> None:
    kind, config = CASES["mixtral"]
    tiny.save(tiny.model(kind, **config), tmp_path)
    message = "layers.0.mlp.experts.gate.weight: 6 rows (expert cut, dimension 0 of (6, 128, 64))"
    with pytest.raises(ValueError, match=re.escape(message) + " do not divide over ep=4"):
        build(open_checkpoint(tmp_path), Mesh(ep=4), torch.float32)


GOOD = MoeConfig(experts=8, top=2, size=16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": 3}, "experts=8 do not divide into groups=3"),
        ({"groups": 8, "group_score": "top2"}, "groups=8 of 2 or more"),
        ({"groups": 4, "top_groups": 5}, "top_groups=5 must be in 1..4"),
        ({"groups": 4, "top_groups": 1, "top": 3}, "top=3 must be in 1..2"),
        ({"top": 0}, "top=0 must be in 1..8"),
        ({"top": 3, "score": "twin"}, "top=3 must be 2"),
        ({"activation": "clamped"}, "activation='clamped' does not go with limit=None"),
        ({"limit": 7.0}, "activation='silu' does not go with limit=7.0"),
        ({"slope": 1.7}, "activation='silu' does not go with slope=1.7"),
        ({"shared": MlpConfig(8, "silu", bias=True)}, "must have no bias"),
        ({"shared_gate": True}, "shared_gate is set"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(GOOD, **changes)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("qwen3 moe", {"mlp_only_layers": "all"}, "mlp_only_layers='all'"),
        ("qwen3 moe", {"num_experts_per_tok": 7}, "top=7 must be in 1..6"),
        ("qwen2 moe", {"use_sliding_window": True}, "use_sliding_window=True"),
        ("mistral", {"layer_types": ["full_attention"]}, "layer_types=['full_attention']"),
        ("gpt-oss", {"layer_types": ["full_attention"] * 2}, "must be 3 of full_attention"),
    ],
)
def test_what_is_not_supported_is_named(
    name: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    kind, config = CASES[name]
    keys = json.loads((tiny.save(tiny.model(kind, **config), tmp_path) / "config.json").read_text())
    with pytest.raises(ValueError, match=re.escape(message)):
        model_config(Keys({**keys, **changes}, "c"))


def test_windows_of_the_first_mistral_are_what_its_class_says() -> None:
    keys = {
        "architectures": ["MistralForCausalLM"],
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 204,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
    }
    windows = [layer.mixer.window for layer in model_config(Keys(keys, "c")).layers]
    assert windows == [4096, 4096]
    none = model_config(Keys({**keys, "sliding_window": None}, "c"))
    assert [layer.mixer.window for layer in none.layers] == [None, None]
    assert Decoder(none, Mesh(), torch.float32).config is none
