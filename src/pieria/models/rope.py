"""The frequencies of a rotary embedding, from its config."""

import math

import torch
from torch import Tensor

from pieria.models.config import Rope


def frequencies(rope: Rope) -> Tensor:
    """frequencies_R, radians per position, float32 on the CPU; R = rope.dim / 2.

    theta^(-2i/dim) (Su et al. 2021, arXiv:2104.09864), then as `Rope` says.
    """
    exponents_R = torch.arange(0, rope.dim, 2, dtype=torch.int64).float() / rope.dim
    plain_R = 1.0 / rope.theta**exponents_R
    if rope.factors:
        return plain_R / torch.tensor(rope.factors)
    if rope.scaling == "linear":
        return plain_R / rope.factor
    if rope.scaling == "llama3":
        wavelength_R = 2 * math.pi / plain_R
        low, high = rope.low_freq_factor, rope.high_freq_factor
        kept_R = ((rope.original_context / wavelength_R - low) / (high - low)).clamp(0, 1)
        return kept_R * plain_R + (1 - kept_R) * plain_R / rope.factor
    return plain_R
