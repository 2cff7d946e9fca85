"""Which format each weight is held in, what of it a rank has, and what that is worth."""

import re
from pathlib import Path

import gguf
import pytest
import torch
from torch import Tensor

from pieria import ops
from pieria.models.checkpoint import open_checkpoint
from pieria.models.decoder import Decoder
from pieria.models.keys import Keys
from pieria.models.loader import build, held_bytes, load
from pieria.models.quantization import NAMES, formats
from pieria.models.registry import model_config
from pieria.models.stored_tensor import NumberFormat
from pieria.ops import Weight
from pieria.ops.formats import QUANTIZED, Blocks
from pieria.parallel.mesh import Mesh
from tests.models import tiny
from tests.models.test_loader import write_gguf

CUTS = [Mesh(), Mesh(tp=2, rank=0), Mesh(tp=2, rank=1)]


def loaded(path: Path, mesh: Mesh, quantize: str = "none") -> Decoder:
    checkpoint = open_checkpoint(path)
    model = build(checkpoint, mesh, torch.float32)
    stated = held_bytes(checkpoint, model, quantize)
    counted: list[int] = []
    load(checkpoint, model, "cpu", counted.append, quantize=quantize)
    assert stated == sum(counted)
    return model


def weights(model: Decoder) -> dict[str, Tensor | Weight]:
    return {f"{m.path}.{kind}": getattr(m, kind) for m in model.declaring() for kind in m.logical}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tiny.model("Llama"), tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize("mesh", CUTS, ids=str)
@pytest.mark.parametrize("name", ["int8", "int4-g32", "int4-g32-zp", "fp8", "fp8-e5m2"])
def test_each_weight_is_brought_into_it(folder: Path, name: str, mesh: Mesh) -> None:
    plain, found = weights(loaded(folder, mesh)), weights(loaded(folder, mesh, name))
    assert plain.keys() == found.keys()
    for weight, tensor in plain.items():
        held = found[weight]
        assert isinstance(tensor, Tensor)
        if "norm" in weight:
            assert torch.equal(ops.dense(held), tensor)
            continue
        assert isinstance(held, Weight)
        outer = weight in ("embed.weight", "head.weight")
        assert held.format.name == ("int8" if outer and "int4" in name else name)
        assert held.shape == tensor.shape
        again = QUANTIZED[held.format.name].quantize(tensor)
        assert torch.equal(ops.dense(held), ops.dense(again))


@pytest.mark.parametrize("mesh", CUTS, ids=str)
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_blocks_of_files_are_kept(tmp_path: Path, kind: str, mesh: Mesh) -> None:
    """Cut, and with the rows of heads in their order: they stand for the numbers read otherwise."""
    path = tmp_path / "model.gguf"
    write_gguf(tiny.model("Llama"), path, "llama", gguf.GGMLQuantizationType[kind], permuted=True)
    plain, found = weights(loaded(path, mesh)), weights(loaded(path, mesh, "stored"))
    for weight, tensor in plain.items():
        held = found[weight]
        assert isinstance(held, Weight) == ("norm" not in weight)
        assert torch.equal(ops.dense(held), ops.dense(tensor))
        if isinstance(held, Weight):
            assert isinstance(held.format, Blocks) and held.format.name == kind
            assert held.nbytes * 8 / held.numel() < 9


def test_a_cut_of_a_group_names_weight_and_rule(folder: Path) -> None:
    message = (
        "layers.0.mixer.o.weight: 64 inputs, of which this rank has (32, 64), do not divide into"
        " groups of 64, which int4-g64 keeps together"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        loaded(folder, Mesh(tp=2, rank=1), "int4-g64")
    with pytest.raises(ValueError, match="64 inputs do not divide into groups of 128"):
        loaded(folder, Mesh(), "int4-g128")


FAMILY = {
    "architectures": ["Qwen3MoeForCausalLM"],
    **{"vocab_size": 256, "hidden_size": 512, "num_hidden_layers": 1, "num_attention_heads": 4},
    **{"num_key_value_heads": 4, "head_dim": 128, "max_position_embeddings": 64},
    **{"rms_norm_eps": 1e-5, "intermediate_size": 512, "num_experts": 4, "num_experts_per_tok": 2},
}


@pytest.mark.parametrize("axis", ["tp", "ep"])
@pytest.mark.parametrize(
    ("name", "stored", "unit"),
    [
        ("int8", None, 1),
        ("int8-g32", None, 32),
        ("int4-g64-zp", None, 64),
        ("int4-g128", None, 128),
        ("fp8", None, 1),
        ("fp8-block", None, 128),
        ("stored", NumberFormat("Q4_0", 32, 18), 32),
        ("stored", NumberFormat("Q4_K", 256, 144), 256),
    ],
)
def test_experts_are_cut_between_groups(
    axis: str, name: str, stored: NumberFormat | None, unit: int
) -> None:
    """Over tp where groups are whole; over ep, which separates experts, always."""
    for size in (512, 448):
        keys = Keys({**FAMILY, "moe_intermediate_size": size}, "a tiny model")
        model = Decoder(model_config(keys), Mesh(**{axis: 2}, rank=1), torch.float32)
        blocks = {f"{m.path}.weight": stored for m in model.declaring() if stored and m.quantizable}
        part = size // 2 if axis == "tp" else size
        parted = unit > 1 and (part % unit if axis == "tp" or name != "fp8-block" else False)
        if not parted:
            assert formats(name, model, model.logical(), blocks)
            continue
        with pytest.raises(ValueError) as error:
            formats(name, model, model.logical(), blocks)
        weight, _, rule = str(error.value).partition(": ")
        assert "experts." in weight and weight.endswith(".weight"), weight
        assert f"do not divide into groups of {unit}, which" in rule


def test_an_unknown_format_names_those_there_are(folder: Path) -> None:
    with pytest.raises(
        ValueError, match=re.escape(f"quantize='int3'; there are: auto, {', '.join(NAMES)}")
    ):
        loaded(folder, Mesh(), "int3")


def test_numbers_that_no_format_holds_are_named(tmp_path: Path) -> None:
    made = tiny.model("Llama")
    made.model.layers[1].mlp.up_proj.weight.data[3, 3] = torch.inf
    with pytest.raises(
        ValueError, match=r"layers\.1\.mlp\.up\.weight: there are numbers that are not finite"
    ):
        loaded(tiny.save(made, tmp_path), Mesh(), "int8")
