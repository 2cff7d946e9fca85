"""The frequencies of a rotary embedding, from its config."""

import math

import torch
from torch import Tensor

from pieria.models.config import Rope


def frequencies(rope: Rope) -> Tensor:
    """frequencies_R, radians per position, float32 on the CPU; R = rope.dim / 2.

    theta^(-2i/dim) (Su et al. 2021, arXiv:2104.09864), then as `Rope` says.
    """
    theta = rope.theta
    if rope.scaling == "ntk":
        theta *= rope.factor ** (rope.dim / (rope.dim - 2))
    exponents_R = torch.arange(0, rope.dim, 2, dtype=torch.int64).float() / rope.dim
    plain_R = 1.0 / theta**exponents_R
    if rope.factors:
        return plain_R / torch.tensor(rope.factors)
    if rope.scaling == "linear":
        return plain_R / rope.factor
    if rope.scaling == "llama3":
        wavelength_R = 2 * math.pi / plain_R
        low, high = rope.low_freq_factor, rope.high_freq_factor
        kept_R = ((rope.original_context / wavelength_R - low) / (high - low)).clamp(0, 1)
        return kept_R * plain_R + (1 - kept_R) * plain_R / rope.factor
    if rope.scaling == "yarn":
        low, high = (_dimension_of(rope, turns) for turns in (rope.beta_fast, rope.beta_slow))
        if rope.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, rope.dim - 1)
        # A ramp of no width would divide by zero.
        steps_R = torch.arange(rope.dim // 2, dtype=torch.float32) - low
        kept_R = 1 - (steps_R / max(high - low, 0.001)).clamp(0, 1)
        return kept_R * plain_R + (1 - kept_R) * plain_R / rope.factor
    return plain_R


def _dimension_of(rope: Rope, turns: float) -> float:
    """Which frequency makes this many turns over the original context."""
    wavelength = rope.original_context / (turns * 2 * math.pi)
    return rope.dim * math.log(wavelength) / (2 * math.log(rope.theta))
