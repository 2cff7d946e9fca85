"""Every byte is read once, whatever the streams and threads: the sum shows it."""

import pytest
import torch

from pieria.kernels.cpu import native
from pieria.kernels.cpu.read import STREAMS, read


@pytest.mark.parametrize("isa", native.available())
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("streams", STREAMS)
def test_all_words_are_summed(isa: str, threads: int, streams: int) -> None:
    before = native.active().name
    native.use(isa)
    native.use_threads(threads)
    try:
        # A whole number of runs for each stream of each thread.
        words = torch.randint(-(2**40), 2**40, (2 * 16 * 256 // 8 * 3,))
        assert read(words, streams) == int(words.sum())
        assert read(words[:0], streams) == 0
    finally:
        native.use_threads(1)
        native.use(before)
