"""Formats as the compressed-tensors layout has them: what a config says, and a matrix's tensors.

`compressed_tensors` and `fp8` read what is written here.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from pieria.ops import Weight
from pieria.ops.formats import QUANTIZED, Float8, Integer

WRITABLE = tuple(name for name, format in QUANTIZED.items() if name != "fp8-e5m2")
"""The names of formats that the layout has."""


def quantization_config(name: str, ignored: Collection[str]) -> dict[str, Any]:
    """Of config.json, for a format of `WRITABLE`. ignored: linear modules in plain numbers."""
    format = QUANTIZED[name]
    token = {"dynamic": True, "symmetric": True, "strategy": "token", "num_bits": 8}
    inputs: dict[str, Any] | None = None
    weights: dict[str, Any] = {"symmetric": True, "dynamic": False, "strategy": "channel"}
    if isinstance(format, Float8):
        layout, inputs = "float-quantized", {**token, "type": "float"}
        weights |= {"num_bits": 8, "type": "float"}
        if format.blocks:
            weights |= {"strategy": "block", "block_structure": [128, 128]}
            inputs |= {"strategy": "group", "group_size": 128}
    else:
        weights |= {"num_bits": format.bits, "type": "int", "symmetric": not format.zero}
        if format.group is None:
            layout, inputs = "int-quantized", {**token, "type": "int"}
        else:
            layout = "pack-quantized"
            weights |= {"strategy": "group", "group_size": format.group}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "quantization_status": "compressed",
        "config_groups": {"group_0": {**group, "output_activations": None, "format": layout}},
        "ignore": sorted(ignored),
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


def tensors(weight: Weight) -> dict[str, Tensor]:
    """Of a matrix [O, I]; the names' last parts."""
    format = weight.format
    if isinstance(format, Float8):
        codes, scales = weight.tensors
        return {"weight": codes, "weight_scale": scales}
    assert isinstance(format, Integer), f"{format.name} is not written"
    codes, scales, *zeros = weight.tensors
    if format.group is None:
        return {"weight": codes, "weight_scale": scales}
    if format.bits == 8:
        words = (codes.view(torch.uint8) ^ 128).contiguous().view(torch.int32)
    else:
        words = codes.contiguous().view(torch.int32)
    found = {
        "weight_packed": words,
        "weight_scale": scales,
        "weight_shape": torch.tensor(weight.shape, dtype=torch.int64),
    }
    if zeros:
        # Eight outputs' zeros in a word, the first lowest.
        padded = torch.nn.functional.pad(zeros[0], (0, 0, 0, -len(zeros[0]) % 8))
        pairs = padded[::2] | padded[1::2] << 4
        words = pairs.T.reshape(-1).view(torch.int32).view(pairs.shape[1], -1)
        found["weight_zero_point"] = words.T.contiguous()
    return found
