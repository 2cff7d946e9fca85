"""Reading memory and nothing else, to find how fast that can be. Knows no op."""

import torch
from torch import Tensor

from pieria.kernels.cpu import native

STREAMS = (1, 2, 4, 8, 16)
"""How many runs of memory each thread can read in turns."""

MOST_THREADS = 4096

_read = native.kernel("read", "PqqP")


def read(data: Tensor, streams: int) -> int:
    """Read a contiguous tensor once, with this many streams a thread; the sum of its 64-bit words.

    Of each thread's share, what does not fill `streams` times 256 bytes is left out.
    """
    assert streams in STREAMS and data.is_contiguous()
    sums = torch.zeros(MOST_THREADS, dtype=torch.int64)
    _read(data.data_ptr(), data.nbytes, streams, sums.data_ptr())
    return int(sums.sum())
