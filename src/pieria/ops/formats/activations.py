"""What a product with a quantized weight takes its other operand for.

Each rule divides a row into groups, gives each a scale, and rounds to the nearest of the numbers
that the scale's multiples are; ties go to the even one. The steps are in float32, whatever x is in,
so that every implementation finds the same numbers. A row with an infinity or a NaN becomes NaN.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

INT8_MOST = 127.0

LEAST = 2.0**-100
"""What is not larger is 0: the inverse of a scale must be finite."""


def wide(x: Tensor) -> Tensor:
    """In float32, or float64 as it is."""
    return x if x.dtype == torch.float64 else x.float()


@dataclass(frozen=True)
class Int8:
    """Integers from -127 to 127 times a scale; group: inputs that share it, None: all of a row."""

    group: int | None

    def __call__(self, x: Tensor) -> Tensor:
        """x rounded, in float32 or wider."""
        groups = _groups(x, self.group)
        most = groups.abs().amax(-1, keepdim=True)
        codes = torch.round(groups * torch.where(most > LEAST, _over(INT8_MOST, most), 0.0))
        return _joined(wide(x), codes, most / INT8_MOST)


@dataclass(frozen=True)
class Float8:
    """Numbers of a float8 dtype times a scale that lets the largest of a group be the dtype's own.

    So DeepSeek-V3 does with groups of 128 inputs (arXiv:2412.19437, section 3.3).
    """

    dtype: torch.dtype
    group: int | None

    def __call__(self, x: Tensor) -> Tensor:
        """x rounded, in float32 or wider."""
        limit = torch.finfo(self.dtype).max
        groups = _groups(x, self.group)
        most = groups.abs().amax(-1, keepdim=True)
        scaled = groups * torch.where(most > LEAST, _over(limit, most), 0.0)
        codes = scaled.clamp(-limit, limit).to(self.dtype).float()
        return _joined(wide(x), codes, most / limit)


def _groups(x: Tensor, group: int | None) -> Tensor:
    """float32 [.., groups, inputs of a group], the last group filled with zeros."""
    size = x.shape[-1]
    group = group or max(size, 1)
    padded = torch.nn.functional.pad(x.float(), (0, -size % group))
    return torch.unflatten(padded, -1, (-1, group))


def _joined(x: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    """codes * scales in x's dtype and shape."""
    values = codes.to(x.dtype) * scales.to(x.dtype)
    # An infinity makes the scale one, and 0 of its multiples no number.
    return values.flatten(-2)[..., : x.shape[-1]]


def _over(number: float, x: Tensor) -> Tensor:
    """The quotient rounded once, which torch's own of a number and a tensor is not."""
    return torch.full_like(x, number) / x
