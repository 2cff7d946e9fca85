"""Packed experts: as transformers unpacks them, and as GGUF files of the same bits have them."""

import re
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from torch import Tensor

from pieria.models.gguf import read_gguf
from pieria.models.mxfp4_file import UnpackedExperts
from pieria.ops.formats import Blocks
from pieria.ops.weight import dense
from pieria.parallel.mesh import Mesh
from tests.models import packed_experts, test_gguf_experts, tiny
from tests.models.test_families import GPT_OSS, error, ours, read
from tests.models.test_gguf_latents import Memory

TOKENS = torch.arange(5, 45)


def packed_file() -> tuple[UnpackedExperts, Tensor]:
    """3 experts of 70 outputs and 96 inputs, and what they are."""
    blocks, scales = packed_experts.random(3, 70, 96, 0)
    file = Memory(x_blocks=blocks, x_scales=scales, x_bias=torch.ones(3, 70))
    return UnpackedExperts(file), packed_experts.unpacked(blocks, scales)


def test_the_whole() -> None:
    file, wanted = packed_file()
    assert sorted(file.names()) == ["x", "x_bias"]
    assert file.shape("x") == wanted.shape == (3, 96, 70) and file.shape("x_bias") == (3, 70)
    out = torch.empty(3, 96, 70, dtype=torch.float64)
    file.read_into("x", out)
    assert torch.equal(out, wanted.double())


@pytest.mark.parametrize("at_once", [1, 5, 8192])
@pytest.mark.parametrize(
    ("first", "size"),
    [((1, 0, 0), (1, 96, 70)), ((0, 32, 7), (3, 32, 20)), ((2, 31, 69), (1, 2, 1))],
)
def test_any_part(
    first: tuple[int, ...], size: tuple[int, ...], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pieria.models.mxfp4_file.GROUPS_AT_ONCE", at_once)
    file, wanted = packed_file()
    out = torch.empty(size)
    file.read_into("x", out, first)
    for dim, begin in enumerate(first):
        wanted = wanted.narrow(dim, begin, size[dim])
    assert torch.equal(out, wanted)


def test_blocks_without_scales_stay_what_they_are() -> None:
    file = UnpackedExperts(Memory(x_blocks=torch.ones(2, 3)))
    assert file.names() == ["x_blocks"] and file.shape("x_blocks") == (2, 3)


@pytest.mark.parametrize("blocks", [(3, 70, 3, 8), (3, 70, 4, 16), (3, 70, 48)])
def test_parts_that_do_not_fit_are_named(blocks: tuple[int, ...]) -> None:
    file = UnpackedExperts(Memory(x_blocks=torch.empty(blocks), x_scales=torch.empty(3, 70, 3)))
    message = f"tensors x_blocks of shape {blocks} and x_scales of shape (3, 70, 3) do not fit"
    with pytest.raises(ValueError, match=re.escape(message)):
        file.shape("x")


@pytest.fixture
def packed(tmp_path: Path) -> tuple[Any, Path]:
    """(transformers model, its folder)."""
    made = tiny.model("GptOss", **{**GPT_OSS, "swiglu_limit": 7.0})
    return made, packed_experts.save(made, tmp_path / "packed")


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products with what is in 4 bits do not round their other operand, as oracles do not."""
    monkeypatch.setattr(Blocks, "rounded", lambda self, x: x)


def test_logits_are_those_of_transformers(packed: tuple[Any, Path], exact: None) -> None:
    made, folder = packed
    model = read(folder, torch.float32)
    held = [m.weight for m in model.declaring() if ".experts." in m.path]
    assert held and all(w.format.name == "MXFP4" for w in held)
    assert error(ours(read(folder, torch.float32), TOKENS), tiny.logits(made, TOKENS)) <= 1e-4


def test_gguf_and_safetensors_give_equal_logits(
    packed: tuple[Any, Path], exact: None, tmp_path: Path
) -> None:
    """The same numbers in ggml's blocks of the format; what is not of experts in BF16."""
    made, folder = packed
    kinds = gguf.GGMLQuantizationType
    plain = tiny.save(made, tmp_path / "plain")
    file = tmp_path / "model.gguf"
    test_gguf_experts.write(made, plain, file, "gpt-oss", kinds.BF16, experts=kinds.MXFP4)
    assert {t.format.name for t in read_gguf(file).tensors.values()} == {"F32", "BF16", "MXFP4"}
    found = ours(read(file, torch.float32), TOKENS)
    assert error(found, ours(read(folder, torch.float32), TOKENS)) <= 1e-6
    assert error(found, tiny.logits(made, TOKENS)) <= 1e-4


def test_ranks_read_their_part(packed: tuple[Any, Path], tmp_path: Path) -> None:
    made, folder = packed
    whole = dict(read(tiny.save(made, tmp_path / "plain"), torch.float32).named_parameters())
    for rank in range(4):
        mesh = Mesh(tp=2, ep=2, rank=rank)
        part = read(folder, torch.float32, mesh)
        for name, logical in part.logical().items():
            path, _, kind = name.rpartition(".")
            held = dense(getattr(part.get_submodule(path), kind))
            wanted = whole[name]
            for dim, (first, last) in enumerate(logical.shard.spans(logical.shape, mesh)):
                wanted = wanted.narrow(dim, first, last - first)
            assert torch.equal(held, wanted), name
