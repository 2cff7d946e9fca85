"""A weight as something other than a plain tensor: packed for a kernel, or stored in fewer bits.

Model files speak of logical weights [outputs, inputs] only; which format a weight is held in is
settled after loading, and ops dispatch on it. Knows no format by name: each says how it is undone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Weight:
    """A logical weight of `shape` and `dtype` held as `tensors`, in the way that `format` names.

    dense: makes the logical tensor of it, for ops that have no kernel for the format.
    """

    format: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    tensors: tuple[Tensor, ...]
    dense: Callable[["Weight"], Tensor]

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

    def __len__(self) -> int:
        return self.shape[0]


def dense(weight: Tensor | Weight) -> Tensor:
    """The logical tensor."""
    return weight.dense(weight) if isinstance(weight, Weight) else weight
