"""What all ways of keeping a matrix in fewer bits share: their contract, and checked reading.

O outputs, I inputs, G groups of inputs that share a scale.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from pieria.models.tensor_reader import TensorReader
from pieria.ops import Weight
from pieria.ops.formats import Integer

Span = tuple[int, int]
"""[first, last)."""

GROUPS = (128, 64, 32)
"""Inputs in a group, where a file has one scale for all of an output and 4 bits want groups."""


class Stored(Protocol):
    """One matrix [O, I], and the tensors of a file that it is kept as."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the tensors."""

    @property
    def why_dense(self) -> str | None:
        """Why there is no format of ours to hold it in; None: there is."""

    @property
    def unit(self) -> tuple[int, int]:
        """Outputs and inputs that a part may not separate."""

    def shape(self) -> tuple[int, int]:
        """(O, I). ValueError that names the tensors if they do not fit each other."""

    def read(self, outputs: Span, inputs: Span, dtype: torch.dtype) -> Weight | Tensor:
        """A part of whole units, for a model that computes in `dtype`; float32 if `why_dense`.

        ValueError that names the tensor for scales that are no finite numbers.
        """


def box(file: TensorReader, name: str, dtype: torch.dtype, *spans: Span) -> Tensor:
    """A part of a tensor."""
    out = torch.empty([last - first for first, last in spans], dtype=dtype)
    file.read_into(name, out, [first for first, _ in spans])
    return out


def scales(file: TensorReader, name: str, *spans: Span, dtype: torch.dtype) -> Tensor:
    """As `box`. ValueError if not all are finite, in `dtype` too."""
    found = box(file, name, dtype, *spans)
    if not found.isfinite().all():
        raise ValueError(f"tensor {name}: there are scales that are not finite numbers")
    return found


def group_indices(file: TensorReader, name: str, inputs: Span, groups: int) -> Tensor:
    """int64: the group of each of some inputs. ValueError for one that is not there."""
    found = box(file, name, torch.int32, inputs).long()
    if not ((found >= 0) & (found < groups)).all():
        raise ValueError(f"tensor {name} names groups other than the {groups} that there are")
    return found


def expect(file: TensorReader, name: str, shape: Sequence[int], reason: str) -> None:
    """ValueError if the tensor is missing or of another shape."""
    if name not in file:
        raise ValueError(f"tensor {name} is missing: {reason}")
    if file.shape(name) != tuple(shape):
        raise ValueError(
            f"tensor {name} has shape {file.shape(name)}; wanted is {tuple(shape)}: {reason}"
        )


def grouped(inputs: int, group: int | None) -> int:
    """The inputs of a group that 4 bits are held in, where files have such groups or, None, one
    scale for an output. ValueError if none divides the inputs.
    """
    if group is not None:
        return group
    found = next((size for size in GROUPS if inputs % size == 0), None)
    if found is None:
        raise ValueError(f"{inputs} inputs do not divide into groups of {GROUPS[-1]}")
    return found


def unheld(bits: int, group: int | None, symmetric: bool, reordered: str | None) -> str | None:
    """Why integers with such groups cannot be held; None: they can.

    reordered: the option by which groups are of inputs in another order.
    """
    if reordered:
        return f"groups are of inputs that do not follow each other ({reordered})"
    if bits == 8 and not symmetric:
        return "8 bits with zeros"
    return f"groups of {group}; held are multiples of 32" if group and group % 32 else None


def integers(
    codes_OI: Tensor,
    scales_OG: Tensor,
    zeros_OG: Tensor | None,
    group: int | None,
    dtype: torch.dtype,
) -> Weight:
    """Numbers of 4 bits, 0 to 15, as uint8; or of 8, -128 to 127, as int8.

    scales_OG, zeros_OG: of one group for all of an output too, if `group` is None or finer.
    """
    if codes_OI.dtype == torch.int8:
        assert zeros_OG is None, "8 bits have no zero"
        held = scales_OG.float() if group is None else scales_OG
        return Weight(Integer(8, group), tuple(codes_OI.shape), dtype, (codes_OI, held))
    assert group is not None
    count = codes_OI.shape[1] // group
    packed = codes_OI[:, ::2] | codes_OI[:, 1::2] << 4
    tensors = [packed, scales_OG.expand(-1, count).contiguous()]
    if zeros_OG is not None:
        tensors.append(zeros_OG.expand(-1, count).contiguous())
    format = Integer(4, group, zeros_OG is not None)
    return Weight(format, tuple(codes_OI.shape), dtype, tuple(tensors))


def nibbles(words: Tensor, order: Sequence[int] = range(8)) -> Tensor:
    """int32 [R, W] to uint8 [R, 8 W]; order: which of 8 each four bits are, the lowest first."""
    halves = words.contiguous().view(torch.uint8).view(len(words), -1, 4)
    found = torch.stack((halves & 15, halves >> 4), -1).flatten(2)
    return found[..., torch.tensor(order).argsort()].flatten(1)
