"""Checkpoints in fewer bits as other programs write them, against what these programs read: the
matrices of compressed-tensors' own compressors, and of AWQ and GPTQ packed as their sources say.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pieria.models.checkpoint import open_checkpoint
from pieria.models.keys import Keys
from pieria.models.loader import unpacked
from pieria.models.quantized.config import quantization
from pieria.models.quantized.file import QuantizedFile
from pieria.ops import Weight
from pieria.ops.weight import dense

OUTPUTS, INPUTS = 72, 256
NAME = "model.layers.0.mlp.up_proj"


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def folder(path: Path, said: dict[str, Any], tensors: dict[str, Tensor]) -> Path:
    (path / "config.json").write_text(json.dumps({"quantization_config": said}))
    save_file(
        {f"{NAME}.{kind}": t.contiguous() for kind, t in tensors.items()},
        path / "model.safetensors",
    )
    return path


def compressed(path: Path, format: str, **weights: Any) -> tuple[Path, Tensor]:
    """A matrix that the compressed-tensors library wrote, and what it reads."""
    ct = pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    assert ct
    args = QuantizationArgs(**weights)
    scheme = QuantizationScheme(targets=["Linear"], weights=args, format=format)
    weight = random(OUTPUTS, INPUTS)
    groups = (
        weight.view(OUTPUTS, -1, args.group_size)
        if args.group_size
        else weight.view(OUTPUTS, 1, INPUTS)
    )
    if args.strategy == "tensor":
        groups = weight.view(1, 1, -1)
    if args.strategy == "block":
        padded = torch.nn.functional.pad(weight, (0, 0, 0, 128 - OUTPUTS))
        groups = padded.view(1, 128, -1, 128).transpose(1, 2).flatten(2)
    scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), args)
    if args.strategy == "tensor":
        scale, zero = scale.view(1), zero.view(1)
    state = {"weight": weight, "weight_scale": scale}
    if not args.symmetric:
        state["weight_zero_point"] = zero.to(torch.int8)
    compressor = BaseCompressor.get_value_from_registry(format)
    held = compressor.compress(state, scheme)
    wanted = compressor.decompress(dict(held), scheme)["weight"]
    said = {
        "quant_method": "compressed-tensors",
        "format": format,
        "config_groups": {
            "group_0": {"targets": ["Linear"], "weights": json.loads(args.model_dump_json())}
        },
    }
    return folder(path, said, held), wanted.float()


INT = {"type": "int", "symmetric": True}
FLOAT = {"type": "float", "num_bits": 8}
KINDS: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "int8 per channel": ("int-quantized", {**INT, "num_bits": 8, "strategy": "channel"}, "int8"),
    "int8 per tensor": ("int-quantized", {**INT, "num_bits": 8, "strategy": "tensor"}, "int8"),
    "int8 packed": ("pack-quantized", {**INT, "num_bits": 8, "strategy": "channel"}, "int8"),
    "int8 in groups": (
        "pack-quantized",
        {**INT, "num_bits": 8, "strategy": "group", "group_size": 64},
        "int8-g64",
    ),
    "int8 with zeros": (
        "int-quantized",
        {"type": "int", "symmetric": False, "num_bits": 8, "strategy": "channel"},
        None,
    ),
    "int4 in groups": (
        "pack-quantized",
        {**INT, "num_bits": 4, "strategy": "group", "group_size": 32},
        "int4-g32",
    ),
    "int4 per channel": (
        "pack-quantized",
        {**INT, "num_bits": 4, "strategy": "channel"},
        "int4-g128",
    ),
    "int4 with zeros": (
        "pack-quantized",
        {"type": "int", "symmetric": False, "num_bits": 4, "strategy": "group", "group_size": 128},
        "int4-g128-zp",
    ),
    "int4 in groups of 16": (
        "pack-quantized",
        {**INT, "num_bits": 4, "strategy": "group", "group_size": 16},
        None,
    ),
    "fp8 per channel": (
        "float-quantized",
        {**FLOAT, "strategy": "channel"},
        "fp8",
    ),
    "fp8 per tensor": (
        "float-quantized",
        {**FLOAT, "strategy": "tensor"},
        "fp8",
    ),
    "fp8 in blocks": (
        "float-quantized",
        {**FLOAT, "strategy": "block", "block_structure": [128, 128]},
        "fp8-block",
    ),
    "mxfp4": (
        "mxfp4-pack-quantized",
        {
            "type": "float",
            "num_bits": 4,
            "strategy": "group",
            "group_size": 32,
            "scale_dtype": "torch.uint8",
        },
        "MXFP4",
    ),
}


def packed(values: Tensor, dim: int, order: tuple[int, ...] = tuple(range(8))) -> Tensor:
    """Eight numbers of 4 bits to an int32, along `dim`."""
    turned = values.transpose(0, dim).long()
    words = sum(turned[place::8] << 4 * at for at, place in enumerate(order))
    assert isinstance(words, Tensor)
    return words.to(torch.uint32).view(torch.int32).transpose(0, dim).contiguous()


def grouped(path: Path, method: str, group: int = 32, **said: Any) -> tuple[Path, Tensor]:
    """A matrix packed as AutoGPTQ or AutoAWQ would, and what it is."""
    chance = torch.Generator().manual_seed(1)
    codes = torch.randint(0, 16, (INPUTS, OUTPUTS), generator=chance)
    zeros = torch.randint(0, 16, (INPUTS // group, OUTPUTS), generator=chance)
    if said.get("sym"):
        zeros = torch.full_like(zeros, 8)
    scales = (random(INPUTS // group, OUTPUTS).abs() + 0.1).half()
    at = torch.arange(INPUTS) // group
    tensors = {"scales": scales}
    if method == "awq":
        order = (0, 2, 4, 6, 1, 3, 5, 7)
        tensors |= {"qweight": packed(codes, 1, order), "qzeros": packed(zeros, 1, order)}
    else:
        less = 0 if said.get("checkpoint_format") == "gptq_v2" else 1
        tensors |= {"qweight": packed(codes, 0), "qzeros": packed(zeros - less & 15, 1)}
        if said.get("desc_act"):
            at = at[torch.randperm(INPUTS, generator=chance)]
        tensors["g_idx"] = at.int()
    wanted = (codes - zeros[at]).float() * scales.float()[at]
    config = {"quant_method": method, "bits": 4, "group_size": group, **said}
    return folder(path, config, tensors), wanted.T.contiguous()


GROUPED: dict[str, tuple[dict[str, Any], str | None]] = {
    "gptq": ({"method": "gptq", "sym": True}, "int4-g32"),
    "gptq with zeros": ({"method": "gptq", "sym": False}, "int4-g32-zp"),
    "gptq, version 2": (
        {"method": "gptq", "sym": False, "checkpoint_format": "gptq_v2"},
        "int4-g32-zp",
    ),
    "gptq in another order": ({"method": "gptq", "sym": True, "desc_act": True}, None),
    "awq": ({"method": "awq", "zero_point": True, "group": 128}, "int4-g128-zp"),
}


def opened(path: Path) -> QuantizedFile:
    file = unpacked(open_checkpoint(path))
    found = file._file  # type: ignore[attr-defined]
    assert isinstance(found, QuantizedFile)
    return found


def check(path: Path, wanted: Tensor, format: str | None, exactly: bool = True) -> None:
    """The whole and parts, as numbers and as they are held."""
    file = opened(path)
    name = f"{NAME}.weight"
    assert file.names() == [name] and file.shape(name) == (OUTPUTS, INPUTS)
    same: Callable[[Tensor, Tensor], bool] = torch.equal if exactly else torch.allclose
    for first, size in (((0, 0), (OUTPUTS, INPUTS)), ((5, 37), (50, 100)), ((71, 255), (1, 1))):
        out = torch.empty(size)
        file.read_into(name, out, first)
        rows, columns = (slice(f, f + s) for f, s in zip(first, size, strict=True))
        assert same(out, wanted[rows, columns])
    unit = file._matrices[name].unit[1]
    for first, size in (
        ((0, 0), (OUTPUTS, INPUTS)),
        ((0, unit), (OUTPUTS, INPUTS - unit)),
        ((0, 0), (OUTPUTS, unit)),
    ):
        held = file.held(name, size, first, torch.float32)
        if format is None:
            assert held is None
        elif 0 not in size:
            assert isinstance(held, Weight) and held.format.name == format
            rows, columns = (slice(f, f + s) for f, s in zip(first, size, strict=True))
            assert same(dense(held), wanted[rows, columns])
    if format not in (None, "fp8", "int8"):
        with pytest.raises(ValueError, match="each .* share a scale"):
            file.held(name, (OUTPUTS, 8), (0, 8), torch.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_compressed_tensors(kind: str, tmp_path: Path) -> None:
    format, weights, ours = KINDS[kind]
    check(*compressed(tmp_path, format, **weights), ours, exactly=False)


@pytest.mark.parametrize("kind", GROUPED)
def test_gptq_and_awq(kind: str, tmp_path: Path) -> None:
    said, ours = GROUPED[kind]
    check(*grouped(tmp_path, **said), ours)


def blocks(path: Path, **changes: Tensor | None) -> tuple[Path, Tensor]:
    """DeepSeek's layout, and what it stands for; changes: tensors that are other ones."""
    codes = random(OUTPUTS, INPUTS).to(torch.float8_e4m3fn)
    scales = random(1, INPUTS // 128, seed=1).abs() + 0.5
    tensors = {"weight": codes, "weight_scale_inv": scales, **changes}
    said = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    wanted = codes.float() * scales.repeat_interleave(128, 1).repeat_interleave(OUTPUTS, 0)
    return folder(path, said, kept), wanted


def test_fp8_blocks(tmp_path: Path) -> None:
    check(*blocks(tmp_path), "fp8-block")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_scale_inv": None}, f"tensor {NAME}.weight_scale_inv is missing"),
        ({"weight_scale_inv": torch.ones(2, 2)}, "has shape (2, 2); of 72 x 256 numbers wanted"),
        ({"weight_scale_inv": torch.full((1, 2), torch.nan)}, "scales that are not finite"),
        (
            {"weight": torch.full((OUTPUTS, INPUTS), 127, dtype=torch.uint8).view(
                torch.float8_e4m3fn
            )},
            f"tensor {NAME}.weight: there are numbers that are not finite",
        ),
    ],
)  # fmt: skip
def test_bad_fp8_is_named(changes: dict[str, Tensor | None], message: str, tmp_path: Path) -> None:
    path, _ = blocks(tmp_path, **changes)
    with pytest.raises(ValueError, match=re.escape(message)):
        file = opened(path)
        file.read_into(f"{NAME}.weight", torch.empty(file.shape(f"{NAME}.weight")))


@pytest.mark.parametrize(
    ("kind", "tensor", "made", "message"),
    [
        ("gptq", "scales", None, f"tensor {NAME}.scales is missing"),
        ("gptq", "scales", torch.ones(3, OUTPUTS), "scales has shape (3, 72); wanted is (8, 72)"),
        ("awq", "scales", torch.full((2, OUTPUTS), torch.inf), "scales that are not finite"),
        ("awq", "qzeros", torch.ones(1, 1).int(), "qzeros has shape (1, 1); wanted is (2, 9)"),
        ("gptq", "qzeros", torch.zeros(8, 9).int(), "sym says that every zero is 8"),
        (
            "gptq in another order",
            "g_idx",
            torch.full((INPUTS,), 8).int(),
            "names groups other than the 8",
        ),
    ],
)
def test_bad_groups_are_named(
    kind: str, tensor: str, made: Tensor | None, message: str, tmp_path: Path
) -> None:
    path, _ = grouped(tmp_path, **GROUPED[kind][0])
    file = path / "model.safetensors"
    tensors = load_file(file)
    del tensors[f"{NAME}.{tensor}"]
    save_file(tensors | ({} if made is None else {f"{NAME}.{tensor}": made}), file)
    with pytest.raises(ValueError, match=re.escape(message)):
        read = opened(path)
        read.read_into(f"{NAME}.weight", torch.empty(read.shape(f"{NAME}.weight")))


GROUP = {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "group_size": 32}}


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"quant_method": "bitsandbytes"}, "'bitsandbytes' is not supported; there are: compr"),
        ({"quant_method": "gptq", "bits": 3}, "bits=3 is not supported; there are: 4 or 8"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "version='gemv'"),
        ({"quant_method": "fp8", "weight_block_size": 128}, "weight_block_size=128 must be two"),
        (
            {"quant_method": "compressed-tensors", "format": "marlin-24"},
            "format='marlin-24' is not supported",
        ),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"g": {**GROUP, "weights": {
                "num_bits": 4, "type": "float", "strategy": "group", "group_size": 16}}}},
            "num_bits=4, type='float', strategy='group', group_size=16 is not supported",
        ),
        (
            {"quant_method": "compressed-tensors", "config_groups": {
                "g": {**GROUP, "targets": ["re:("]}}},
            "target 're:('",
        ),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"g": GROUP},
             "sparsity_config": {"format": "dense"}},
            "sparse checkpoints are not supported",
        ),
    ],
)  # fmt: skip
def test_an_unknown_scheme_is_named(said: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        quantization(Keys({"quantization_config": said}, "config.json"))
