"""Rounding here is no worse than that of the reference quantizer of the same kind of format."""

import gguf
import pytest
import torch

from pieria.ops.formats import QUANTIZED
from pieria.ops.weight import dense

KINDS = {
    "Q8_0": {"bits": 8, "group": 32, "zero": False},
    "Q4_0": {"bits": 4, "group": 32, "zero": False},
    "Q4_1": {"bits": 4, "group": 32, "zero": True},
}


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_errors_are_not_above_those_of_ggml(kind: str, heavy: bool) -> None:
    """By at most 2 %; of Gaussian numbers, and of ones with heavier tails (Student's t, 5)."""
    chance = torch.Generator().manual_seed(0)
    weight_OI = torch.randn(64, 1024, generator=chance)
    if heavy:
        weight_OI /= torch.randn(5, 64, 1024, generator=chance).square().mean(0).sqrt()
    wanted = KINDS[kind]
    format = next(f for f in QUANTIZED.values() if wanted.items() <= vars(f).items())
    type_ = gguf.GGMLQuantizationType[kind]
    theirs = gguf.dequantize(gguf.quantize(weight_OI.numpy(), type_), type_)
    error = (torch.from_numpy(theirs) - weight_OI).norm()
    assert (dense(format.quantize(weight_OI)) - weight_OI).norm() <= 1.02 * error
