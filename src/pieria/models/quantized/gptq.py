"""Matrices as GPTQ and AWQ libraries write them: packed along the outputs or turned, with zeros.

    GPTQ   X.qweight int32 [I bits / 32, O], X.qzeros int32 [G, O bits / 32], X.scales [G, O],
           X.g_idx int32 [I], the group of each input
    AWQ    X.qweight int32 [I, O / 8], X.qzeros int32 [G, O / 8], X.scales [G, O]

Sources: AutoGPTQ's qlinear_cuda_old.py, whose zeros are stored less one in the format "gptq" and as
they are in "gptq_v2"; AutoAWQ's utils/packing_utils.py and modules/linear/gemm.py. O outputs, I
inputs, G groups of inputs that share a scale.
"""

from dataclasses import dataclass
from math import lcm

import torch
from torch import Tensor

from pieria.models.quantized.stored import (
    Span,
    box,
    expect,
    group_indices,
    grouped,
    integers,
    nibbles,
    scales,
    unheld,
)
from pieria.models.tensor_reader import TensorReader
from pieria.ops import Weight

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight outputs each four bits of a word are, the lowest first."""


@dataclass(frozen=True)
class Gptq:
    """module: X. group: inputs that share a scale; None: all. stored_less: what zeros lack.

    symmetric: every zero is the middle of the range.
    """

    file: TensorReader
    module: str
    bits: int
    group: int | None
    symmetric: bool
    reordered: bool
    stored_less: int

    @property
    def names(self) -> tuple[str, ...]:
        found = [f"{self.module}.{kind}" for kind in ("qweight", "qzeros", "scales")]
        return (*found, *[self._g_idx] * (self._g_idx in self.file))

    @property
    def why_dense(self) -> str | None:
        return unheld(self.bits, self.group, self.symmetric, "desc_act" if self.reordered else None)

    @property
    def unit(self) -> tuple[int, int]:
        inputs = self.shape()[1]
        if self.reordered:
            return 1, inputs
        if self.why_dense:
            return 1, lcm(self.group or 1, 8)
        return 1, grouped(inputs, self.group) if self.bits == 4 else self.group or 4

    def shape(self) -> tuple[int, int]:
        stored, per = self.file.shape(self.names[0]), 32 // self.bits
        if len(stored) != 2:
            raise ValueError(f"tensor {self.names[0]} has shape {stored}, which is no matrix's")
        inputs, outputs = stored[0] * per, stored[1]
        _expect_groups(self, self.file, self.names, (outputs, inputs), self.group, per)
        if self.reordered:
            expect(self.file, self._g_idx, (inputs,), "desc_act says that groups are not in order")
        return outputs, inputs

    def read(self, outputs: Span, inputs: Span, dtype: torch.dtype) -> Weight | Tensor:
        per, whole = 32 // self.bits, self.shape()[1]
        groups = _groups((0, whole) if self.reordered else inputs, self.group)
        span = inputs[0] // per, -(-inputs[1] // per)
        words_OI = box(self.file, self.names[0], torch.int32, span, outputs).T
        codes_OI = self._unpacked(words_OI)
        scales_OG = _scales(self.file, self.names[2], groups, outputs)
        zeros_OG = self._zeros(outputs, groups)
        middle = 1 << self.bits - 1
        if self.symmetric and not (zeros_OG == middle).all():
            raise ValueError(
                f"tensor {self.names[1]}: sym says that every zero is {middle}, and some are not"
            )
        if self.why_dense is None:
            if self.bits == 8:
                signed_OI = (codes_OI ^ 128).view(torch.int8)
                return integers(signed_OI, scales_OG, None, self.group, dtype)
            held = None if self.symmetric else zeros_OG
            return integers(codes_OI, scales_OG, held, grouped(whole, self.group), dtype)
        at_I = torch.arange(*inputs) // (self.group or whole) - groups[0]
        if self.reordered:
            at_I = group_indices(self.file, self._g_idx, inputs, groups[1])
        return (codes_OI.float() - zeros_OG.float()[:, at_I]) * scales_OG.float()[:, at_I]

    @property
    def _g_idx(self) -> str:
        return f"{self.module}.g_idx"

    def _zeros(self, outputs: Span, groups: Span) -> Tensor:
        per = 32 // self.bits
        span = outputs[0] // per, -(-outputs[1] // per)
        words_GO = box(self.file, self.names[1], torch.int32, groups, span)
        first = outputs[0] - span[0] * per
        found_GO = self._unpacked(words_GO)[:, first : first + outputs[1] - outputs[0]]
        return (found_GO + self.stored_less & (1 << self.bits) - 1).T.contiguous()

    def _unpacked(self, words: Tensor) -> Tensor:
        """uint8."""
        return nibbles(words) if self.bits == 4 else words.contiguous().view(torch.uint8)


@dataclass(frozen=True)
class Awq:
    """module: X. group: inputs that share a scale; None: all. zeros: whether each group has one."""

    file: TensorReader
    module: str
    group: int | None
    zeros: bool

    @property
    def names(self) -> tuple[str, ...]:
        kinds = ["qweight", "scales"] + ["qzeros"] * self.zeros
        return tuple(f"{self.module}.{kind}" for kind in kinds)

    @property
    def why_dense(self) -> str | None:
        return unheld(4, self.group, not self.zeros, None)

    @property
    def unit(self) -> tuple[int, int]:
        if self.why_dense:
            return 1, self.group or 1
        return 1, grouped(self.shape()[1], self.group)

    def shape(self) -> tuple[int, int]:
        stored = self.file.shape(self.names[0])
        if len(stored) != 2:
            raise ValueError(f"tensor {self.names[0]} has shape {stored}, which is no matrix's")
        inputs, outputs = stored[0], stored[1] * 8
        names = (self.names[0], f"{self.module}.qzeros", self.names[1])
        _expect_groups(self, self.file, names, (outputs, inputs), self.group, 8)
        return outputs, inputs

    def read(self, outputs: Span, inputs: Span, dtype: torch.dtype) -> Weight | Tensor:
        groups = _groups(inputs, self.group)
        scales_OG = _scales(self.file, self.names[1], groups, outputs)
        zeros_OG = self._outputs(self.names[2], groups, outputs) if self.zeros else None
        codes_OI = self._outputs(self.names[0], inputs, outputs)
        if self.why_dense is None:
            group = grouped(self.shape()[1], self.group)
            return integers(codes_OI, scales_OG, zeros_OG, group, dtype)
        each = self.group or 1
        zeros = 8 if zeros_OG is None else zeros_OG.float().repeat_interleave(each, 1)
        return (codes_OI.float() - zeros) * scales_OG.float().repeat_interleave(each, 1)

    def _outputs(self, name: str, rows: Span, outputs: Span) -> Tensor:
        """uint8 [O, rows]."""
        span = outputs[0] // 8, -(-outputs[1] // 8)
        found = nibbles(box(self.file, name, torch.int32, rows, span), AWQ_ORDER)
        first = outputs[0] - span[0] * 8
        return found[:, first : first + outputs[1] - outputs[0]].T.contiguous()


def _expect_groups(
    stored: Gptq | Awq,
    file: TensorReader,
    names: tuple[str, ...],
    shape: tuple[int, int],
    group: int | None,
    per: int,
) -> None:
    outputs, inputs = shape
    if group is not None and inputs % group:
        raise ValueError(f"tensor {names[0]}: {inputs} inputs do not divide into groups of {group}")
    groups, rule = inputs // group if group else 1, f"of {outputs} x {inputs} numbers"
    if isinstance(stored, Gptq) or stored.zeros:
        expect(file, names[1], (groups, -(-outputs // per)), rule)
    expect(file, names[2], (groups, outputs), rule)


def _groups(inputs: Span, group: int | None) -> Span:
    return (0, 1) if group is None else (inputs[0] // group, -(-inputs[1] // group))


def _scales(file: TensorReader, name: str, groups: Span, outputs: Span) -> Tensor:
    dtype = torch.float16 if file.kind(name) == "F16" else torch.float32
    return scales(file, name, groups, outputs, dtype=dtype).T.contiguous()
