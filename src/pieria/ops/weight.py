"""A weight as something other than a plain tensor: packed for a kernel, or stored in fewer bits.

Model files speak of logical weights [outputs, inputs] only; which format a weight is held in is
settled when it is loaded, and ops dispatch on it. Knows no format by name: each says how it is
undone and what a product with it computes.
"""

from dataclasses import dataclass, replace
from math import prod
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Format(Protocol):
    """How the numbers of a weight are held. Two of the same name hold them in the same way."""

    @property
    def name(self) -> str: ...

    def values(self, weight: "Weight") -> Tensor:
        """The numbers that are held, of the weight's shape; exact in the dtype they come in."""

    def rounded(self, x: Tensor) -> Tensor:
        """What a product with such a weight takes x for, in a dtype that the product is made in."""


@dataclass(frozen=True, eq=False)
class Weight:
    """A logical weight of `shape` and `dtype` held as `tensors`, in the way that `format` knows.

    dtype: what the model computes in, and `dense` gives.
    """

    format: Format
    shape: tuple[int, ...]
    dtype: torch.dtype
    tensors: tuple[Tensor, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of what is held."""
        return sum(t.numel() * t.element_size() for t in self.tensors)

    @property
    def device(self) -> torch.device:
        return self.tensors[0].device

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def numel(self) -> int:
        """Numbers of the logical weight."""
        return prod(self.shape)

    def to(self, device: str) -> "Weight":
        return replace(self, tensors=tuple(t.to(device) for t in self.tensors))

    def __len__(self) -> int:
        return self.shape[0]


def dense(weight: Tensor | Weight) -> Tensor:
    """The logical tensor."""
    if isinstance(weight, Weight):
        return weight.format.values(weight).to(weight.dtype)
    return weight


def unbind(weight: Tensor | Weight) -> tuple[Tensor, ...] | tuple[Weight, ...]:
    """The matrices of a stack."""
    if not isinstance(weight, Weight):
        return weight.unbind(0)
    parts = zip(*(t.unbind(0) for t in weight.tensors), strict=True)
    return tuple(replace(weight, shape=weight.shape[1:], tensors=part) for part in parts)


def product(x: Tensor, weight_OI: Tensor | Weight, bias_O: Tensor | None = None) -> Tensor:
    """y_..O = sum_I x_..I * weight_OI + bias_O, of x as the weight's format rounds it.

    The definition that kernels for products with quantized weights are held against.
    """
    if not isinstance(weight_OI, Weight):
        return F.linear(x, weight_OI, bias_O)
    wide = weight_OI.format.rounded(x)
    bias_O = None if bias_O is None else bias_O.to(wide)
    return F.linear(wide, weight_OI.format.values(weight_OI).to(wide), bias_O).to(x.dtype)
