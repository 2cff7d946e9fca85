"""Matrices as the compressed-tensors library writes them (its compressors/pack_quantized and
naive_quantized, and quantization/quant_args.py, version 0.20).

    pack-quantized         X.weight_packed int32 [O, I bits / 32], X.weight_scale, X.weight_shape,
                           with zeros X.weight_zero_point int32 [O bits / 32, G]
    int-quantized          X.weight int8 [O, I], X.weight_scale, with zeros X.weight_zero_point
    mxfp4-pack-quantized   X.weight_packed uint8 [O, I / 2], X.weight_scale uint8 [O, I / 32]

What float-quantized holds, `fp8` knows. Numbers and zeros are packed with half of their range
added, the lowest bits first. O outputs, I inputs, G groups that share a scale: I / group_size, or
one for an output or for the whole tensor.
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
from pieria.ops.formats import Blocks


@dataclass(frozen=True)
class Integers:
    """module: X. group: inputs that share a scale; None: all of an output."""

    file: TensorReader
    module: str
    bits: int
    group: int | None
    per_tensor: bool
    symmetric: bool
    reordered: bool

    @property
    def packed(self) -> bool:
        return f"{self.module}.weight_packed" in self.file

    @property
    def names(self) -> tuple[str, ...]:
        kinds = ["weight_packed", "weight_shape"] if self.packed else ["weight"]
        kinds += ["weight_scale"] + ["weight_zero_point"] * (not self.symmetric)
        kinds += ["weight_g_idx"] * self.reordered
        return tuple(f"{self.module}.{kind}" for kind in kinds)

    @property
    def why_dense(self) -> str | None:
        return unheld(self.bits, self.group, self.symmetric, "actorder" if self.reordered else None)

    @property
    def unit(self) -> tuple[int, int]:
        if self.reordered:
            return 1, self.shape()[1]
        if self.group and self.why_dense:
            return 1, lcm(self.group, 32 // self.bits)
        if self.group is None and self.bits == 8:
            return 1, 4 if self.packed else 1
        return 1, grouped(self.shape()[1], self.group)

    def shape(self) -> tuple[int, int]:
        outputs, inputs = self._sizes()
        if self.group is not None and inputs % self.group:
            raise ValueError(
                f"tensor {self.names[0]}: {inputs} inputs do not divide into groups of {self.group}"
            )
        groups, rule = inputs // self.group if self.group else 1, f"of {outputs} x {inputs} numbers"
        rows = 1 if self.per_tensor else outputs
        if not (self.per_tensor and self._scalar("weight_scale")):
            expect(self.file, f"{self.module}.weight_scale", (rows, groups), rule)
        if not self.symmetric:
            held = -(-rows * self.bits // 32) if self.packed else rows
            expect(self.file, f"{self.module}.weight_zero_point", (held, groups), rule)
        if self.reordered:
            expect(self.file, f"{self.module}.weight_g_idx", (inputs,), rule)
        return outputs, inputs

    def read(self, outputs: Span, inputs: Span, dtype: torch.dtype) -> Weight | Tensor:
        groups = (0, 1)
        if self.group is not None:
            groups = (
                (0, self.shape()[1] // self.group) if self.reordered else _over(inputs, self.group)
            )
        codes_OI = self._codes(outputs, inputs)
        scales_OG = self._scales(outputs, groups)
        zeros_OG = None if self.symmetric else self._zeros(outputs, groups)
        if self.why_dense is None:
            group = self.group if self.bits == 8 else grouped(self.shape()[1], self.group)
            return integers(codes_OI, scales_OG, zeros_OG, group, dtype)
        at_I = torch.arange(*inputs) // (self.group or inputs[1]) - groups[0]
        if self.reordered:
            at_I = group_indices(self.file, f"{self.module}.weight_g_idx", inputs, groups[1])
        levels_OI = codes_OI.float()
        if zeros_OG is not None:
            levels_OI -= zeros_OG.float()[:, at_I]
        elif codes_OI.dtype == torch.uint8:
            levels_OI -= 8
        return levels_OI * scales_OG.float()[:, at_I]

    def _sizes(self) -> tuple[int, int]:
        stored = self.file.shape(self.names[0])
        if len(stored) != 2:
            raise ValueError(f"tensor {self.names[0]} has shape {stored}, which is no matrix's")
        if not self.packed:
            return stored
        expect(self.file, f"{self.module}.weight_shape", (2,), "it says what is packed")
        outputs, inputs = box(
            self.file, f"{self.module}.weight_shape", self._shape_dtype(), (0, 2)
        ).tolist()
        rule = f"of {outputs} x {inputs} numbers of {self.bits} bits"
        expect(self.file, self.names[0], (outputs, -(-inputs * self.bits // 32)), rule)
        return outputs, inputs

    def _shape_dtype(self) -> torch.dtype:
        kind = self.file.kind(f"{self.module}.weight_shape")
        return torch.int32 if kind == "I32" else torch.int64

    def _codes(self, outputs: Span, inputs: Span) -> Tensor:
        if not self.packed:
            return box(self.file, self.names[0], torch.int8, outputs, inputs)
        per = 32 // self.bits
        words = box(self.file, self.names[0], torch.int32, outputs, _over(inputs, per))
        found = nibbles(words) if self.bits == 4 else _bytes(words)
        return found[:, : inputs[1] - inputs[0]]

    def _scales(self, outputs: Span, groups: Span) -> Tensor:
        name = f"{self.module}.weight_scale"
        dtype = torch.float16 if self.file.kind(name) == "F16" else torch.float32
        if not self.per_tensor:
            return scales(self.file, name, outputs, groups, dtype=dtype)
        one = scales(self.file, name, *((0, n) for n in self.file.shape(name)), dtype=dtype)
        return one.reshape(1, 1).expand(outputs[1] - outputs[0], 1).contiguous()

    def _zeros(self, outputs: Span, groups: Span) -> Tensor:
        """uint8, of 4 bits as the codes are; int8 of 8."""
        name = f"{self.module}.weight_zero_point"
        rows = (0, 1) if self.per_tensor else outputs
        if not self.packed:
            found = box(self.file, name, torch.int8, rows, groups)
        else:
            per = 32 // self.bits
            span = rows[0] // per, -(-rows[1] // per)
            words = box(self.file, name, torch.int32, span, groups).T
            wide = nibbles(words) if self.bits == 4 else _bytes(words)
            found = wide.T[rows[0] - span[0] * per :][: rows[1] - rows[0]]
        return found.expand(outputs[1] - outputs[0], -1).contiguous()

    def _scalar(self, kind: str) -> bool:
        name = f"{self.module}.{kind}"
        return name in self.file and self.file.shape(name) in ((), (1,))


@dataclass(frozen=True)
class Mxfp4:
    """module: X."""

    file: TensorReader
    module: str

    @property
    def names(self) -> tuple[str, ...]:
        return f"{self.module}.weight_packed", f"{self.module}.weight_scale"

    @property
    def why_dense(self) -> str | None:
        return None

    @property
    def unit(self) -> tuple[int, int]:
        return 1, 32

    def shape(self) -> tuple[int, int]:
        stored = self.file.shape(self.names[0])
        if len(stored) != 2 or stored[1] % 16:
            raise ValueError(
                f"tensor {self.names[0]} has shape {stored}; wanted is [outputs, inputs / 2] with"
                " inputs a multiple of 32"
            )
        expect(self.file, self.names[1], (stored[0], stored[1] // 16), "a scale for 32 inputs")
        return stored[0], stored[1] * 2

    def read(self, outputs: Span, inputs: Span, dtype: torch.dtype) -> Weight | Tensor:
        halves = (inputs[0] // 2, inputs[1] // 2)
        bytes_OB = box(self.file, self.names[0], torch.uint8, outputs, halves)
        exponents_OG = box(self.file, self.names[1], torch.uint8, outputs, _over(inputs, 32))
        return mxfp4(bytes_OB, exponents_OG, self.names[1], dtype)


def mxfp4(bytes_OB: Tensor, exponents_OG: Tensor, name: str, dtype: torch.dtype) -> Weight:
    """bytes_OB: of two inputs each, the first in the low half; any dimensions may stand before.

    name: of the scales' tensor. ValueError for a scale of 255, which stands for no number.
    """
    if (exponents_OG == 255).any():
        raise ValueError(f"tensor {name}: there are scales that are not finite numbers")
    groups = torch.unflatten(bytes_OB, -1, (-1, 16))
    codes = torch.stack((groups & 15, groups >> 4), -1).flatten(-2)
    # ggml's blocks have the scale in front, and the second half above the first.
    halves = codes[..., :16] | codes[..., 16:] << 4
    blocks = torch.cat((exponents_OG.unsqueeze(-1), halves), -1)
    shape = (*bytes_OB.shape[:-1], bytes_OB.shape[-1] * 2)
    return Weight(Blocks("MXFP4", 32, 17), shape, dtype, (blocks,))


def _bytes(words: Tensor) -> Tensor:
    """int8 [R, 4 W] of int32 [R, W]."""
    return (words.contiguous().view(torch.uint8) ^ 128).view(torch.int8)


def _over(inputs: Span, size: int) -> Span:
    return inputs[0] // size, -(-inputs[1] // size)
