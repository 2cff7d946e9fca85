"""ggml's block formats as float32 (source: ggml-quants.c, dequantize_row_*). Knows no files.

A block of 32 successive elements holds a float16 scale d, for Q4_1 also a float16 minimum m, then
the quants q:

    Q8_0   q * d          32 int8
    Q4_0   (q - 8) * d    16 bytes; the low halves are elements 0 to 15, the high ones 16 to 31
    Q4_1   q * d + m      16 bytes, likewise

Shapes: N blocks, B bytes of a block, E = 32 elements.
"""

import torch
from torch import Tensor


def q8_0(blocks_NB: Tensor) -> Tensor:
    """uint8 [N, 34] -> float32 [N, 32]."""
    return blocks_NB[:, 2:].view(torch.int8).float().mul_(_halves(blocks_NB, 1))


def q4_0(blocks_NB: Tensor) -> Tensor:
    """uint8 [N, 18] -> float32 [N, 32]."""
    return _nibbles(blocks_NB[:, 2:]).sub_(8).mul_(_halves(blocks_NB, 1))


def q4_1(blocks_NB: Tensor) -> Tensor:
    """uint8 [N, 20] -> float32 [N, 32]."""
    scale_N1, minimum_N1 = _halves(blocks_NB, 2).unsqueeze(-1).unbind(1)
    return _nibbles(blocks_NB[:, 4:]).mul_(scale_N1).add_(minimum_N1)


def _halves(blocks_NB: Tensor, count: int) -> Tensor:
    """The float16 numbers at each block's start, as float32 [N, count]."""
    return blocks_NB[:, : 2 * count].contiguous().view(torch.float16).float()


def _nibbles(bytes_NB: Tensor) -> Tensor:
    """float32 [N, 32]: the low halves of 16 bytes, then the high ones."""
    return torch.cat((bytes_NB & 15, bytes_NB >> 4), dim=1).float()
