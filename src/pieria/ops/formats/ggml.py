"""ggml's block formats (source: ggml-quants.c, dequantize_row_*), as GGUF files hold them.

A block of 32 or 256 successive elements holds scales, in some formats minima, and quants q of some
bits. A scale s is the block's float16 d, or d times a small integer that 16 or 32 elements share;
likewise a minimum m:

    Q8_0  q * d            Q2_K  q * s - m      Q6_K    (q - 32) * s
    Q4_0  (q - 8) * d      Q3_K  (q - 4) * s    IQ4_NL  LEVELS[q] * d
    Q4_1  q * d + m        Q4_K  q * s - m      IQ4_XS  LEVELS[q] * s
    Q5_0  (q - 16) * d     Q5_K  q * s - m      MXFP4   E2M1[q] * 2^(e - 128)
    Q5_1  q * d + m

The functions take uint8 [N, bytes of a block] and give `Parts` of N outputs and a block's inputs.

Shapes: N blocks, B bytes, E elements, G groups that share a scale; O outputs, I inputs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from pieria.ops.formats import activations
from pieria.ops.formats.parts import Parts, Scales
from pieria.ops.weight import Weight

LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""kvalues_iq4nl of ggml-common.h."""

E2M1 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
"""Twice the values of FP4 (OCP Microscaling Formats 1.0, section 5.3.3)."""


def q8_0(blocks_NB: Tensor) -> Parts:
    return Parts(blocks_NB[:, 2:].view(torch.int8), None, _halves(blocks_NB, 0))


def q4_0(blocks_NB: Tensor) -> Parts:
    return Parts(_bits(blocks_NB[:, 2:], 4, 16), _from(-8, 4), _halves(blocks_NB, 0))


def q4_1(blocks_NB: Tensor) -> Parts:
    codes_NE = _bits(blocks_NB[:, 4:], 4, 16)
    return Parts(codes_NE, _from(0, 4), _halves(blocks_NB, 0), _halves(blocks_NB, 2))


def q5_0(blocks_NB: Tensor) -> Parts:
    codes_NE = _joined(_bits(blocks_NB[:, 6:], 4, 16), _bits(blocks_NB[:, 2:6], 1, 1))
    return Parts(codes_NE, _from(-16, 5), _halves(blocks_NB, 0))


def q5_1(blocks_NB: Tensor) -> Parts:
    codes_NE = _joined(_bits(blocks_NB[:, 8:], 4, 16), _bits(blocks_NB[:, 4:8], 1, 1))
    return Parts(codes_NE, _from(0, 5), _halves(blocks_NB, 0), _halves(blocks_NB, 2))


def q2_k(blocks_NB: Tensor) -> Parts:
    codes_NE = _bits(blocks_NB[:, 16:80], 2, 32)
    scales, minima = blocks_NB[:, :16] & 15, blocks_NB[:, :16] >> 4
    return Parts(
        codes_NE,
        _from(0, 2),
        _shared(scales, blocks_NB, 80),
        _taken(minima, blocks_NB, 82),
    )


def q3_k(blocks_NB: Tensor) -> Parts:
    low_NG, high_NG = _bits(blocks_NB[:, 96:104], 4, 8), _bits(blocks_NB[:, 104:108], 2, 4)
    scales_NG = _joined(low_NG, high_NG).char() - 32
    codes_NE = _joined(_bits(blocks_NB[:, 32:96], 2, 32), _bits(blocks_NB[:, :32], 1, 32), 2)
    return Parts(codes_NE, _from(-4, 3), _shared(scales_NG, blocks_NB, 108))


def q4_k(blocks_NB: Tensor) -> Parts:
    codes_NE = _bits(blocks_NB[:, 16:], 4, 32)
    return Parts(codes_NE, _from(0, 4), *_scales_and_minima(blocks_NB))


def q5_k(blocks_NB: Tensor) -> Parts:
    codes_NE = _joined(_bits(blocks_NB[:, 48:], 4, 32), _bits(blocks_NB[:, 16:48], 1, 32))
    return Parts(codes_NE, _from(0, 5), *_scales_and_minima(blocks_NB))


def q6_k(blocks_NB: Tensor) -> Parts:
    codes_NE = _joined(_bits(blocks_NB[:, :128], 4, 64), _bits(blocks_NB[:, 128:192], 2, 32))
    scales_NG = blocks_NB[:, 192:208].view(torch.int8)
    return Parts(codes_NE, _from(-32, 6), _shared(scales_NG, blocks_NB, 208))


def iq4_nl(blocks_NB: Tensor) -> Parts:
    return Parts(_bits(blocks_NB[:, 2:], 4, 16), LEVELS, _halves(blocks_NB, 0))


def iq4_xs(blocks_NB: Tensor) -> Parts:
    low_NG, high_NG = _bits(blocks_NB[:, 4:8], 4, 1), _bits(blocks_NB[:, 2:4], 2, 1)
    scales_NG = _joined(low_NG, high_NG).char() - 32
    codes_NE = _bits(blocks_NB[:, 8:], 4, 16)
    return Parts(codes_NE, LEVELS, _shared(scales_NG, blocks_NB, 0))


def mxfp4(blocks_NB: Tensor) -> Parts:
    exponent_N1 = blocks_NB[:, :1].int()
    bits_N1 = torch.where(exponent_N1 < 2, 0x200000 << exponent_N1, exponent_N1 - 1 << 23)
    return Parts(_bits(blocks_NB[:, 1:], 4, 16), E2M1, Scales(bits_N1.view(torch.float32)))


PARTS: Mapping[str, Callable[[Tensor], Parts]] = {
    "Q8_0": q8_0,
    "Q4_0": q4_0,
    "Q4_1": q4_1,
    "Q5_0": q5_0,
    "Q5_1": q5_1,
    "Q2_K": q2_k,
    "Q3_K": q3_k,
    "Q4_K": q4_k,
    "Q5_K": q5_k,
    "Q6_K": q6_k,
    "IQ4_NL": iq4_nl,
    "IQ4_XS": iq4_xs,
    "MXFP4": mxfp4,
}
"""The name that files have for a format -> what its blocks are."""


@dataclass(frozen=True)
class Blocks:
    """Weights in one of these formats: uint8 [.., O, blocks of an output, bytes of a block].

    block: elements of a block. block_bytes: what they take.
    """

    kind: str
    block: int
    block_bytes: int

    @property
    def name(self) -> str:
        return self.kind

    @property
    def unit(self) -> int:
        """Inputs that a cut may not separate."""
        return self.block

    def nbytes(self, shape: tuple[int, ...]) -> int:
        return prod(shape) // self.block * self.block_bytes

    def parts(self, weight: Weight) -> Parts:
        """As kernels pack them."""
        (blocks,) = weight.tensors
        *outer, count, size = blocks.shape
        found = PARTS[self.kind](blocks.reshape(-1, size))

        def rows(x: Tensor) -> Tensor:
            return x.reshape(*outer, count * x.shape[-1])

        def both(x: Scales | None) -> Scales | None:
            return x and Scales(rows(x.units), None if x.steps is None else rows(x.steps))

        scales = both(found.scales)
        assert scales is not None
        return replace(found, codes=rows(found.codes), scales=scales, minima=both(found.minima))

    def values(self, weight: Weight) -> Tensor:
        """float32."""
        return self.parts(weight).values()

    def rounded(self, x: Tensor) -> Tensor:
        """llama.cpp's own rule, but that it takes 256 for 32 beside the K-formats."""
        return activations.Int8(32)(x)


def _from(first: int, bits: int) -> tuple[int, ...]:
    return tuple(range(first, first + (1 << bits)))


def _numbers(blocks_NB: Tensor, at: int) -> Tensor:
    """The float16 numbers at byte `at` of each block [N, 1]."""
    return blocks_NB[:, at : at + 2].contiguous().view(torch.float16)


def _halves(blocks_NB: Tensor, at: int) -> Scales:
    return Scales(_numbers(blocks_NB, at))


def _shared(units_NG: Tensor, blocks_NB: Tensor, at: int) -> Scales:
    return Scales(units_NG.char(), _numbers(blocks_NB, at))


def _taken(units_NG: Tensor, blocks_NB: Tensor, at: int) -> Scales:
    """Minima that are subtracted."""
    return Scales(units_NG.char(), -_numbers(blocks_NB, at))


def _bits(bytes_NB: Tensor, bits: int, run: int) -> Tensor:
    """Numbers of `bits` bits, uint8 [N, 8 // bits * B].

    Of every `run` bytes the lowest bits are the first `run` numbers, the next bits the next ones.
    """
    rows, width = bytes_NB.shape
    # Flat, as a single row may have any stride.
    flat = bytes_NB.reshape(-1)
    # Eight bytes at a time where they fit: what comes over from a neighbour is masked.
    wide = width % 8 == 0 and flat.storage_offset() % 8 == 0
    packed = flat.view(torch.int64).view(rows, width // 8) if wide else flat.view(rows, width)
    mask = ((1 << bits) - 1) * (0x0101010101010101 if wide else 1)
    parts = [(packed >> shift & mask).view(torch.uint8) for shift in range(0, 8, bits)]
    return torch.cat([torch.unflatten(part, 1, (-1, run)) for part in parts], 2).flatten(1)


def _joined(low_NE: Tensor, high_NE: Tensor, low_bits: int = 4) -> Tensor:
    """The numbers whose low and high bits these are."""
    return high_NE << low_bits | low_NE


def _scales_and_minima(blocks_NB: Tensor) -> tuple[Scales, Scales]:
    """Of Q4_K and Q5_K, [N, 8] each, from bytes 4 to 16 (get_scale_min_k4).

    The first four of either are the low six bits of a byte; of the others the low four bits are in
    the last bytes, the high two above the first ones' six.
    """
    scale_N4, minimum_N4, low_N4 = torch.unflatten(blocks_NB[:, 4:16], 1, (3, 4)).unbind(1)
    scales_NG = torch.cat((scale_N4 & 63, scale_N4 >> 6 << 4 | low_N4 & 15), 1)
    minima_NG = torch.cat((minimum_N4 & 63, minimum_N4 >> 6 << 4 | low_N4 >> 4), 1)
    return _shared(scales_NG, blocks_NB, 0), _taken(minima_NG, blocks_NB, 2)
