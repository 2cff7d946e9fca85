"""Matrices that safetensors files keep as packed FP4 numbers beside scales, as the ones that they
stand for. Knows their names and layout; reads through another `TensorFile`.

So gpt-oss is published: OCP Microscaling Formats 1.0, with the names that transformers'
integrations/mxfp4.py reads. E experts, O outputs, I inputs, G groups of 32 inputs with a scale.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pieria.models.checkpoint import TensorFile
from pieria.models.quantized.compressed_tensors import mxfp4
from pieria.models.stored_tensor import NumberFormat
from pieria.ops import Weight
from pieria.ops.weight import dense

BLOCKS, SCALES = "_blocks", "_scales"
GROUP = 32

GROUPS_AT_ONCE = 8192
"""So many are decoded together: 128 KiB of packed numbers."""


class UnpackedExperts:
    """A file's tensors, with x [E, I, O] in place of x_blocks [E, O, G, 16] and x_scales [E, O, G].

    A byte of a block holds two inputs, the first in its low half.
    """

    def __init__(self, file: TensorFile) -> None:
        self._file = file
        there = set(file.names())
        starts = (name.removesuffix(BLOCKS) for name in there if name.endswith(BLOCKS))
        self._packed = {start for start in starts if start + SCALES in there}

    def names(self) -> list[str]:
        parts = {start + part for start in self._packed for part in (BLOCKS, SCALES)}
        return [name for name in self._file.names() if name not in parts] + sorted(self._packed)

    def shape(self, name: str) -> tuple[int, ...]:
        """ValueError for an unknown name, or for blocks and scales that do not fit."""
        if name not in self._packed:
            return self._file.shape(name)
        blocks, scales = self._file.shape(name + BLOCKS), self._file.shape(name + SCALES)
        if len(blocks) != 4 or blocks != (*scales, GROUP // 2):
            raise ValueError(
                f"tensors {name}{BLOCKS} of shape {blocks} and {name}{SCALES} of shape {scales} do"
                f" not fit; wanted are [experts, outputs, groups, {GROUP // 2}] and the same"
                " without the last"
            )
        experts, outputs, groups = scales
        return experts, groups * GROUP, outputs

    def blocks(self, name: str) -> NumberFormat | None:
        return None if name in self._packed else self._file.blocks(name)

    def read_into(self, name: str, out: Tensor, first: Sequence[int] = ()) -> None:
        """As of any `TensorFile`."""
        if name not in self._packed:
            self._file.read_into(name, out, first)
            return
        expert, begin, row = first or (0, 0, 0)
        low, high = begin // GROUP, -(-(begin + out.shape[1]) // GROUP)
        rows = max(1, GROUPS_AT_ONCE // (high - low))
        for i, out_IO in enumerate(out, expert):
            for at, part_OI in enumerate(torch.split(out_IO.mT, rows)):
                place = (i, row + at * rows, low)
                decoded_OI = self._decoded(name, place, len(part_OI), high - low)
                part_OI.copy_(decoded_OI.narrow(1, begin - low * GROUP, part_OI.shape[1]))

    def held(
        self,
        name: str,
        shape: Sequence[int],
        first: Sequence[int],
        dtype: torch.dtype,
        turned: bool = False,
    ) -> Weight | None:
        """As of any `TensorFile`; of a packed matrix, turned and of whole groups."""
        if name not in self._packed:
            return self._file.held(name, shape, first, dtype, turned)
        if not turned:
            return None
        experts, inputs, outputs = shape
        expert, begin, row = first
        if begin % GROUP or inputs % GROUP:
            raise ValueError(
                f"tensor {name}{BLOCKS}: inputs {begin} to {begin + inputs} are wanted here, and"
                f" each {GROUP} share a scale; another number of ranks may divide them"
            )
        groups = inputs // GROUP
        bytes_EOGB = torch.empty(experts, outputs, groups, GROUP // 2, dtype=torch.uint8)
        scales_EOG = torch.empty(experts, outputs, groups, dtype=torch.uint8)
        place = (expert, row, begin // GROUP)
        self._file.read_into(name + BLOCKS, bytes_EOGB, (*place, 0))
        self._file.read_into(name + SCALES, scales_EOG, place)
        return mxfp4(bytes_EOGB.flatten(2), scales_EOG, name + SCALES, dtype)

    def _decoded(self, name: str, place: tuple[int, int, int], rows: int, groups: int) -> Tensor:
        """float32 [rows, groups * 32] from this expert, output and group on."""
        bytes_OGB = torch.empty(1, rows, groups, GROUP // 2, dtype=torch.uint8)
        scales_OG = torch.empty(1, rows, groups, dtype=torch.uint8)
        self._file.read_into(name + BLOCKS, bytes_OGB, (*place, 0))
        self._file.read_into(name + SCALES, scales_OG, place)
        weight = mxfp4(bytes_OGB.flatten(2), scales_OG, name + SCALES, torch.float32)
        return dense(weight)[0]
