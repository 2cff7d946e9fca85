"""A matrix as small integers and what they are multiplied with: what all integer formats come to,
and what kernels pack.

O outputs, I inputs, G groups of inputs that share a scale; any dimensions may stand before.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scales:
    """A number for each group: units_OG (float16, bfloat16, float32), or units_OG (int8) times
    steps_OS (float16), each step for as many successive groups.
    """

    units: Tensor
    steps: Tensor | None = None

    def values(self) -> Tensor:
        """float32 [.., O, G]."""
        if self.steps is None:
            return self.units.float()
        shared = self.units.shape[-1] // self.steps.shape[-1]
        units = torch.unflatten(self.units.float(), -1, (-1, shared))
        return (self.steps.float().unsqueeze(-1) * units).flatten(-2)


@dataclass(frozen=True)
class Parts:
    """value = level * scale + minimum, or (level - zero) * scale.

    codes: what stands for a level, uint8 [.., O, I], or int8 that are levels themselves.
    levels: the level of each code; None: a code is its own. zeros: int8 [.., O, G].
    """

    codes: Tensor
    levels: tuple[int, ...] | None
    scales: Scales
    minima: Scales | None = None
    zeros: Tensor | None = None

    @property
    def group(self) -> int:
        """Inputs that share a scale."""
        return self.codes.shape[-1] // self.scales.units.shape[-1]

    def values(self) -> Tensor:
        """float32 [.., O, I]: the products and sums above in that order, each rounded."""
        shape = self.codes.shape
        found = torch.unflatten(self.floats(), -1, (-1, self.group))
        if self.zeros is not None:
            found = found.sub_(self.zeros.unsqueeze(-1))
        found = found.mul_(self.scales.values().unsqueeze(-1))
        if self.minima is not None:
            found.add_(self.minima.values().unsqueeze(-1))
        return found.reshape(shape)

    def floats(self) -> Tensor:
        """The levels, float32 [.., O, I]."""
        if self.levels is None:
            return self.codes.float()
        first, count = self.levels[0], len(self.levels)
        if self.levels == tuple(range(first, first + count)):
            return self.codes.float().add_(first)
        table = torch.tensor(self.levels, dtype=torch.float32, device=self.codes.device)
        return table.index_select(0, self.codes.int().flatten()).view(self.codes.shape)
