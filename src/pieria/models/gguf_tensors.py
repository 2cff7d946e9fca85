"""ggml's block formats as float32 (source: ggml-quants.c, dequantize_row_*). Knows no files.

A block of 32 or 256 successive elements holds scales, in some formats minima, and quants q of some
bits. A scale s is the block's float16 d, or d times a small integer that 16 or 32 elements share;
likewise a minimum m:

    Q8_0  q * d            Q2_K  q * s - m      Q6_K    (q - 32) * s
    Q4_0  (q - 8) * d      Q3_K  (q - 4) * s    IQ4_NL  LEVELS[q] * d
    Q4_1  q * d + m        Q4_K  q * s - m      IQ4_XS  LEVELS[q] * s
    Q5_0  (q - 16) * d     Q5_K  q * s - m      MXFP4   E2M1[q] * 2^(e - 128)
    Q5_1  q * d + m

Every function takes uint8 [N, bytes of a block] and returns float32 [N, elements of a block]: the
products and sums above in that order, each rounded to float32.

Shapes: N blocks, B bytes, E elements, G groups that share a scale.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""kvalues_iq4nl of ggml-common.h."""

E2M1 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
"""Twice the values of FP4 (OCP Microscaling Formats 1.0, section 5.3.3)."""


def q8_0(blocks_NB: Tensor) -> Tensor:
    return blocks_NB[:, 2:].view(torch.int8).float().mul_(_halves(blocks_NB, 0))


def q4_0(blocks_NB: Tensor) -> Tensor:
    return _parts(blocks_NB[:, 2:], 4, 16).float().sub_(8).mul_(_halves(blocks_NB, 0))


def q4_1(blocks_NB: Tensor) -> Tensor:
    q_NE = _parts(blocks_NB[:, 4:], 4, 16).float()
    return q_NE.mul_(_halves(blocks_NB, 0)).add_(_halves(blocks_NB, 2))


def q5_0(blocks_NB: Tensor) -> Tensor:
    q_NE = _joined(_parts(blocks_NB[:, 6:], 4, 16), _parts(blocks_NB[:, 2:6], 1, 1))
    return q_NE.sub_(16).mul_(_halves(blocks_NB, 0))


def q5_1(blocks_NB: Tensor) -> Tensor:
    q_NE = _joined(_parts(blocks_NB[:, 8:], 4, 16), _parts(blocks_NB[:, 4:8], 1, 1))
    return q_NE.mul_(_halves(blocks_NB, 0)).add_(_halves(blocks_NB, 2))


def q2_k(blocks_NB: Tensor) -> Tensor:
    scales_NG = _halves(blocks_NB, 80) * (blocks_NB[:, :16] & 15)
    minima_NG = _halves(blocks_NB, 82) * (blocks_NB[:, :16] >> 4)
    return _scaled(_parts(blocks_NB[:, 16:80], 2, 32).float(), scales_NG, minima_NG)


def q3_k(blocks_NB: Tensor) -> Tensor:
    low_NG, high_NG = _parts(blocks_NB[:, 96:104], 4, 8), _parts(blocks_NB[:, 104:108], 2, 4)
    scales_NG = _halves(blocks_NB, 108) * _joined(low_NG, high_NG).sub_(32)
    q_NE = _joined(_parts(blocks_NB[:, 32:96], 2, 32), _parts(blocks_NB[:, :32], 1, 32), 2)
    return _scaled(q_NE.sub_(4), scales_NG)


def q4_k(blocks_NB: Tensor) -> Tensor:
    return _scaled(_parts(blocks_NB[:, 16:], 4, 32).float(), *_scales_and_minima(blocks_NB))


def q5_k(blocks_NB: Tensor) -> Tensor:
    q_NE = _joined(_parts(blocks_NB[:, 48:], 4, 32), _parts(blocks_NB[:, 16:48], 1, 32))
    return _scaled(q_NE, *_scales_and_minima(blocks_NB))


def q6_k(blocks_NB: Tensor) -> Tensor:
    q_NE = _joined(_parts(blocks_NB[:, :128], 4, 64), _parts(blocks_NB[:, 128:192], 2, 32))
    scales_NG = _halves(blocks_NB, 208) * blocks_NB[:, 192:208].view(torch.int8)
    return _scaled(q_NE.sub_(32), scales_NG)


def iq4_nl(blocks_NB: Tensor) -> Tensor:
    return _looked_up(LEVELS, _parts(blocks_NB[:, 2:], 4, 16)).mul_(_halves(blocks_NB, 0))


def iq4_xs(blocks_NB: Tensor) -> Tensor:
    low_NG, high_NG = _parts(blocks_NB[:, 4:8], 4, 1), _parts(blocks_NB[:, 2:4], 2, 1)
    scales_NG = _halves(blocks_NB, 0) * _joined(low_NG, high_NG).sub_(32)
    return _scaled(_looked_up(LEVELS, _parts(blocks_NB[:, 8:], 4, 16)), scales_NG)


def mxfp4(blocks_NB: Tensor) -> Tensor:
    exponent_N1 = blocks_NB[:, :1].int()
    bits_N1 = torch.where(exponent_N1 < 2, 0x200000 << exponent_N1, exponent_N1 - 1 << 23)
    return _looked_up(E2M1, _parts(blocks_NB[:, 1:], 4, 16)).mul_(bits_N1.view(torch.float32))


DECODERS: Mapping[str, Callable[[Tensor], Tensor]] = {
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
"""NumberFormat.name -> function."""


def _halves(blocks_NB: Tensor, at: int) -> Tensor:
    """The float16 numbers at byte `at` of each block, as float32 [N, 1]."""
    return blocks_NB[:, at : at + 2].contiguous().view(torch.float16).float()


def _parts(bytes_NB: Tensor, bits: int, run: int) -> Tensor:
    """Numbers of `bits` bits, uint8 [N, 8 // bits * B].

    Of every `run` bytes the lowest bits are the first `run` numbers, the next bits the next ones.
    """
    shifts_S1 = torch.arange(0, 8, bits, dtype=torch.uint8).unsqueeze(1)
    runs_NR1B = torch.unflatten(bytes_NB, 1, (-1, 1, run))
    return (runs_NR1B >> shifts_S1 & (1 << bits) - 1).flatten(1)


def _joined(low_NE: Tensor, high_NE: Tensor, low_bits: int = 4) -> Tensor:
    """The numbers whose low and high bits these are, as float32."""
    return (high_NE << low_bits | low_NE).float()


def _looked_up(table: tuple[int, ...], q_NE: Tensor) -> Tensor:
    values = torch.tensor(table, dtype=torch.float32)
    return values.index_select(0, q_NE.int().flatten()).view(q_NE.shape)


def _scaled(q_NE: Tensor, scales_NG: Tensor, minima_NG: Tensor | None = None) -> Tensor:
    """q * s - m, with a scale and a minimum for each group of successive elements."""
    q_NGE = torch.unflatten(q_NE, 1, (scales_NG.shape[1], -1)).mul_(scales_NG.unsqueeze(-1))
    if minima_NG is not None:
        q_NGE.sub_(minima_NG.unsqueeze(-1))
    return q_NGE.flatten(1)


def _scales_and_minima(blocks_NB: Tensor) -> tuple[Tensor, Tensor]:
    """Of Q4_K and Q5_K, float32 [N, 8] each, from bytes 4 to 16 (get_scale_min_k4).

    The first four of either are the low six bits of a byte; of the others the low four bits are in
    the last bytes, the high two above the first ones' six.
    """
    scale_N4, minimum_N4, low_N4 = torch.unflatten(blocks_NB[:, 4:16], 1, (3, 4)).unbind(1)
    scales_NG = torch.cat((scale_N4 & 63, scale_N4 >> 6 << 4 | low_N4 & 15), 1)
    minima_NG = torch.cat((minimum_N4 & 63, minimum_N4 >> 6 << 4 | low_N4 >> 4), 1)
    return _halves(blocks_NB, 0) * scales_NG, _halves(blocks_NB, 2) * minima_NG
