"""Weights of few bits in panels, as the kernels for products with them read them; `quantized.h` has
the layout.

What a format holds comes here as codes and scales (`Parts`, or those of FP8); which format it was
matters no more.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from struct import pack as struct_pack

import torch
from torch import Tensor

from pieria.kernels.cpu import native
from pieria.kernels.cpu.panels import WIDTH, take
from pieria.ops import Weight
from pieria.ops.formats import Blocks, Float8, Integer, Parts
from pieria.ops.weight import unbind

OUTPUTS, GROUPS, E4M3, E5M2 = range(4)
_UNITS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.int8: 3}
NO_MINIMA, SAME, ZEROS = range(3)
"""The numbers are those of `quantized.h`."""

CHUNK, BLOCK = 256, 128
ZERO = 128
AT_ONCE = 1 << 20
"""Numbers that are unpacked together."""

_pack = native.kernel("pack_quantized", "PPqqPPPPP")
_panel_bytes = native.kernel("quantized_panel_bytes", "PqP")
_rows = native.kernel("quantized_embedding", "qPPPPqqqqd")


@dataclass(frozen=True)
class Packed:
    """What `format` held, in panels; tensors: uint8 [.., panels, bytes] and what the panels are.

    numbers: how x is rounded for a product with them.
    """

    format: Integer | Blocks | Float8
    numbers: int

    @property
    def name(self) -> str:
        return f"{self.format.name} panels"

    @property
    def rule(self) -> int:
        """Weights of one rule can share rows of x."""
        return min(self.numbers, E4M3)

    def values(self, weight: Weight) -> Tensor:
        """float32."""
        if weight.ndim == 3:
            found = (m for m in unbind(weight) if isinstance(m, Weight))
            return torch.stack([self.values(matrix) for matrix in found])
        return rows(weight, torch.arange(len(weight)), torch.float32)

    def rounded(self, x: Tensor) -> Tensor:
        return self.format.rounded(x)


def pack(weight: Tensor | Weight) -> Weight | None:
    """Of a matrix [outputs, inputs] or a stack of them; None for what there are no kernels for."""
    if not isinstance(weight, Weight) or weight.dtype not in native.DTYPES:
        return None
    format, (*stack, outputs, inputs) = weight.format, weight.shape
    if isinstance(format, Packed):
        return weight
    matrices = unbind(weight) if stack else (weight,)
    if len(stack) > 1 or not all(isinstance(matrix, Weight) for matrix in matrices):
        return None
    layout: Tensor | None = None
    numbers = GROUPS
    if isinstance(format, Float8):
        numbers = E4M3 if format.kind == "e4m3" else E5M2
        layout = _layout(numbers, 8, BLOCK, 0, NO_MINIMA, bytes(16))
    elif isinstance(format, Integer) and format.group is None:
        numbers = OUTPUTS
        layout = _layout(OUTPUTS, 8, 0, 0, NO_MINIMA, bytes(16))
    elif isinstance(format, Integer | Blocks):
        layout = _layout_of(next(_slabs(format, matrices[0])), inputs)
    if layout is None or not isinstance(format, Integer | Blocks | Float8):
        return None
    size = torch.empty(1, dtype=torch.int64)
    _panel_bytes(layout.data_ptr(), inputs, size.data_ptr())
    panels = take((*stack, -(-outputs // WIDTH), int(size)), torch.uint8)
    for matrix, into in zip(matrices, panels if stack else (panels,), strict=True):
        assert isinstance(matrix, Weight)
        if isinstance(format, Float8):
            _put_floats(format, matrix, layout, into)
        else:
            first = 0
            for parts in _slabs(format, matrix):
                _put(parts, layout, numbers, into[first // WIDTH :])
                first += len(parts.codes)
    layouts = layout.repeat(*stack, 1) if stack else layout
    return Weight(Packed(format, numbers), weight.shape, weight.dtype, (panels, layouts))


def rows(
    weight: Weight, tokens: Tensor, dtype: torch.dtype, first: int = 0, scale: float = 0.0
) -> Tensor:
    """Rows of a matrix, as `embedding` says."""
    panels, layout = weight.tensors
    out = torch.empty(*tokens.shape, weight.shape[1], dtype=dtype)
    _rows(
        *(native.DTYPES[dtype], tokens.data_ptr(), panels.data_ptr(), layout.data_ptr()),
        *(out.data_ptr(), tokens.numel(), *weight.shape, first, scale),
    )
    return out


def _slabs(format: Integer | Blocks, matrix: Tensor | Weight) -> Iterator[Parts]:
    """The parts of some panels' outputs at a time."""
    assert isinstance(matrix, Weight)
    outputs, inputs = matrix.shape
    step = max(1, AT_ONCE // (WIDTH * inputs)) * WIDTH
    for first in range(0, outputs, step):
        tensors = tuple(t[first : first + step] for t in matrix.tensors)
        shape = (min(step, outputs - first), inputs)
        yield format.parts(Weight(format, shape, matrix.dtype, tensors))


def _layout_of(parts: Parts, inputs: int) -> Tensor | None:
    """What the kernels need to know of groups; None: they take no such."""
    group, levels, units = parts.group, parts.levels, parts.scales.units
    minima = ZEROS if parts.zeros is not None else SAME if parts.minima else NO_MINIMA
    zero = 0 if minima else ZERO
    if levels is None:
        if minima:
            return None
        bits, table = 8, bytes(16)
    else:
        bits = (len(levels) - 1).bit_length()
        shown = levels if bits == 4 else levels[:1]
        table = bytes((level + zero) % 256 for level in shown).ljust(16, b"\0")
    if inputs % 32 or (group != 16 and (group % 32 or CHUNK % min(group, CHUNK))):
        return None
    if group > CHUNK and group % CHUNK:
        return None
    if parts.scales.steps is not None and inputs != parts.scales.steps.shape[-1] * CHUNK:
        return None
    kept = _UNITS[units.dtype]
    return _layout(GROUPS, bits, min(group, CHUNK), kept, minima, table)


def _layout(*values: int | bytes) -> Tensor:
    return torch.frombuffer(bytearray(struct_pack("=5q16s", *values)), dtype=torch.uint8)


def _put(parts: Parts, layout: Tensor, numbers: int, into: Tensor) -> None:
    codes, scales = parts.codes, parts.scales
    if parts.levels is None:
        codes = codes.view(torch.uint8) ^ ZERO  # a level and 128
    units = scales.units.float() if numbers == OUTPUTS else scales.units
    minima = parts.zeros if parts.minima is None else parts.minima.units
    below = None if parts.minima is None else parts.minima.steps
    repeated = max(1, parts.group // CHUNK) if numbers == GROUPS else 1
    kept = [
        None if t is None else t.repeat_interleave(repeated, -1).contiguous()
        for t in (units, minima)
    ]
    steps = [None if t is None else t.contiguous() for t in (scales.steps, below)]
    codes = codes.contiguous()
    _pack(
        *(layout.data_ptr(), codes.data_ptr(), *codes.shape),
        *(native.address(t) for t in (*kept, *steps)),
        into.data_ptr(),
    )


def _put_floats(format: Float8, matrix: Weight, layout: Tensor, into: Tensor) -> None:
    codes, scales = matrix.tensors
    outputs, inputs = matrix.shape
    if format.blocks:
        scales = scales.repeat_interleave(BLOCK, 0)[:outputs]
    each = scales.float().expand(outputs, -(-inputs // BLOCK)).contiguous()
    codes = codes.contiguous()
    _pack(
        layout.data_ptr(),
        codes.data_ptr(),
        outputs,
        inputs,
        each.data_ptr(),
        0,
        0,
        0,
        into.data_ptr(),
    )
