"""Integers of 8 or 4 bits times a scale, as compressed-tensors, AWQ and GPTQ checkpoints hold them.

A scale belongs to an output, or to a group of an output's successive inputs. A product takes its
other operand in int8: with a scale for each row beside scales of outputs, and for each 32 inputs
beside scales of groups.

O outputs, I inputs, G groups; any dimensions may stand before.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pieria.ops.formats import activations
from pieria.ops.formats.parts import Parts, Scales
from pieria.ops.weight import Weight

AT_ONCE = 1 << 20
"""Numbers that are quantized together, in float32."""

SHARES = (1.0, 0.95, 0.9, 0.85, 0.8)
"""Of 4 bits' range: finer scales clip the largest numbers and are nearer to all others."""


@dataclass(frozen=True)
class Integer:
    """Weights of `bits` bits, 8 or 4: value = (code - zero) * scale.

    group: inputs that share a scale, a multiple of 32; None: all of an output. zero: whether a
    group has a zero of its own.

    tensors of a weight: codes, int8 [.., O, I] or, of 4 bits, uint8 [.., O, I / 2] with the first
    of two inputs in the low half; scales in any float dtype [.., O, G]; of a zero, uint8
    [.., O, G]. Without one, 8 is the zero of 4 bits.
    """

    bits: int
    group: int | None = None
    zero: bool = False

    def __post_init__(self) -> None:
        assert self.bits == 8 or (self.bits == 4 and self.group), "4 bits want groups"
        assert self.group is None or (self.group > 0 and self.group % 32 == 0)
        assert not (self.zero and self.bits == 8), "8 bits want no zero"

    @property
    def name(self) -> str:
        group = "" if self.group is None else f"-g{self.group}"
        return f"int{self.bits}{group}{'-zp' if self.zero else ''}"

    @property
    def unit(self) -> int:
        """Inputs that a cut may not separate."""
        return self.group or 1

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Of a weight that `quantize` makes."""
        *stack, inputs = shape
        rows = int(torch.Size(stack).numel())
        groups = inputs // self.group if self.group else 1
        scale = 4 if self.group is None else 2 + self.zero
        return rows * (inputs * self.bits // 8 + groups * scale)

    def quantize(self, tensor: Tensor) -> Weight:
        """To the nearest, of a tensor [.., O, I].

        Scales are float32 for outputs; for groups float16, and of a few that which gives the least
        squared error. ValueError if the inputs do not divide into groups, or for a number that is
        not finite.
        """
        *stack, inputs = tensor.shape
        if inputs % self.unit:
            raise ValueError(f"{inputs} inputs do not divide into groups of {self.group}")
        flat = tensor.reshape(-1, inputs)
        made = [self._rows(part) for part in torch.split(flat, max(1, AT_ONCE // inputs))]
        tensors = tuple(torch.cat(several) for several in zip(*made, strict=True))
        held = tuple(t.view(*stack, t.shape[-1]) for t in tensors)
        return Weight(self, tuple(tensor.shape), tensor.dtype, held)

    def parts(self, weight: Weight) -> Parts:
        """As kernels pack them; of 8 bits, the codes are what is held."""
        codes, scales, *zeros = weight.tensors
        if self.bits == 8:
            return Parts(codes, None, Scales(scales))
        halves = torch.stack((codes & 15, codes >> 4), -1).flatten(-2)
        if self.zero:
            return Parts(halves, tuple(range(16)), Scales(scales), zeros=zeros[0].view(torch.int8))
        return Parts(halves, tuple(range(-8, 8)), Scales(scales))

    def values(self, weight: Weight) -> Tensor:
        """float32."""
        return self.parts(weight).values()

    def rounded(self, x: Tensor) -> Tensor:
        return activations.Int8(32 if self.group else None)(x)

    def _rows(self, rows_OI: Tensor) -> tuple[Tensor, ...]:
        if not rows_OI.isfinite().all():
            raise ValueError("there are numbers that are not finite, which no integers stand for")
        groups_OGI = torch.unflatten(rows_OI.float(), -1, (-1, self.group or rows_OI.shape[-1]))
        if self.bits == 8:
            scales = _stored(groups_OGI.abs().amax(-1, keepdim=True) / 127, self.group)
            codes = _codes(groups_OGI, scales, 0, -127, 127)
            return codes.flatten(-2).to(torch.int8), _held(scales, self.group)
        scales, zeros = _best(groups_OGI, _ranges if self.zero else _extremes)
        halves = (_codes(groups_OGI, scales, zeros, 0, 15)).to(torch.uint8).flatten(-2)
        packed, held = halves[:, ::2] | halves[:, 1::2] << 4, _held(scales, self.group)
        return (packed, held, _held(zeros, self.group).byte()) if self.zero else (packed, held)


def _stored(scales: Tensor, group: int | None) -> Tensor:
    """float32, rounded to what is kept: float16 for groups."""
    return scales if group is None else scales.half().float()


def _held(numbers_OG1: Tensor, group: int | None) -> Tensor:
    held = numbers_OG1.squeeze(-1)
    return held if group is None else held.half()


def _codes(groups: Tensor, scales: Tensor, zeros: Tensor | int, low: int, high: int) -> Tensor:
    """The nearest, as float32."""
    levels = torch.where(scales != 0, groups / scales, 0)
    return (torch.round(levels) + zeros).clamp(low, high)


def _extremes(groups: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """A share of the number of the largest magnitude, sign included, is the lowest code."""
    at = groups.abs().argmax(-1, keepdim=True)
    scales = (groups.gather(-1, at) * (share / -8)).half().float()
    return scales, torch.full_like(scales, 8)


def _ranges(groups: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """A share of the range, which has 0 in it, is that of the codes."""
    low = groups.amin(-1, keepdim=True).clamp(max=0)
    high = groups.amax(-1, keepdim=True).clamp(min=0)
    scales = ((high - low) * (share / 15)).half().float()
    zeros = torch.where(scales > 0, torch.round(low * -share / scales), 0).clamp(0, 15)
    return scales, zeros


def _best(
    groups: Tensor, rule: Callable[[Tensor, float], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Of the rule's scales and zeros for some shares, each group's of the least squared error."""
    least = groups.new_full((*groups.shape[:-1], 1), torch.inf)
    scales = zeros = torch.zeros_like(least)
    for share in SHARES:
        some, origin = rule(groups, share)
        values = (_codes(groups, some, origin, 0, 15) - origin) * some
        error = (values - groups).square().sum(-1, keepdim=True)
        better = error < least
        least = torch.where(better, error, least)
        scales, zeros = torch.where(better, some, scales), torch.where(better, origin, zeros)
    return scales, zeros
