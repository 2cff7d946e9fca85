"""gpt-oss as it is published: with experts' matrices as packed FP4 numbers and scales."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from tests.models import tiny

MATRICES = ("gate_up_proj", "down_proj")


def unpacked(blocks: Tensor, scales: Tensor) -> Tensor:
    """transformers' reading, in float32."""
    return convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)


def random(experts: int, rows: int, columns: int, seed: int) -> tuple[Tensor, Tensor]:
    """Blocks and scales of any bytes; numbers from 2^-8 to 6 * 2^-3."""
    chance = torch.Generator().manual_seed(seed)
    shape = (experts, rows, columns // 32)
    blocks = torch.randint(0, 256, (*shape, 16), generator=chance, dtype=torch.uint8)
    return blocks, torch.randint(120, 125, shape, generator=chance, dtype=torch.uint8)


def save(made: Any, folder: Path) -> Path:
    """The model with random experts and other matrices rounded to bfloat16, in its files and in
    `made` itself.
    """
    packed: dict[str, Tensor] = {}
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(parameter.bfloat16())
    for i, layer in enumerate(made.model.layers):
        for seed, name in enumerate(MATRICES):
            parameter = getattr(layer.mlp.experts, name)
            experts, columns, rows = parameter.shape
            blocks, scales = random(experts, rows, columns, 2 * i + seed)
            with torch.no_grad():
                parameter.copy_(unpacked(blocks, scales))
            start = f"model.layers.{i}.mlp.experts.{name}"
            packed |= {f"{start}_blocks": blocks, f"{start}_scales": scales}
    config = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    tiny.save(made, folder, quantization_config=config)
    file = folder / "model.safetensors"
    plain = {name: t for name, t in load_file(file).items() if not name.endswith(MATRICES)}
    save_file({**plain, **packed}, file)
    return folder
