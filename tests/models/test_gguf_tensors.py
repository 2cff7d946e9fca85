"""Dequantization, bit for bit, against the gguf package's."""

from collections.abc import Callable

import gguf
import numpy
import pytest
import torch
from torch import Tensor

from pieria.models.gguf_tensors import q4_0, q4_1, q8_0


@pytest.mark.parametrize(
    ("decode", "kind", "scales"),
    [
        (q8_0, gguf.GGMLQuantizationType.Q8_0, 1),
        (q4_0, gguf.GGMLQuantizationType.Q4_0, 1),
        (q4_1, gguf.GGMLQuantizationType.Q4_1, 2),
    ],
)
def test_as_gguf_does(
    decode: Callable[[Tensor], Tensor], kind: gguf.GGMLQuantizationType, scales: int
) -> None:
    generator = numpy.random.default_rng(0)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    raw = generator.integers(0, 256, (500, size), dtype=numpy.uint8)
    numbers = generator.normal(size=(500, scales)).astype(numpy.float16)
    numbers[0], numbers[1] = 0, numpy.finfo(numpy.float16).max
    numbers[2] = numpy.finfo(numpy.float16).smallest_subnormal
    raw[:, : 2 * scales] = numbers.view(numpy.uint8)
    expected = torch.from_numpy(gguf.dequantize(raw, kind))
    found = decode(torch.from_numpy(raw))
    assert found.dtype == torch.float32
    assert found.shape == (500, block)
    assert torch.equal(found, expected)
