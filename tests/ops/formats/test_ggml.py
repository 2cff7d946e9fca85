"""Dequantization, bit for bit, against the gguf package's."""

import gguf
import numpy
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from pieria.models.gguf import FORMATS
from pieria.ops.formats.ggml import PARTS

SCALES = {
    **dict.fromkeys(("Q8_0", "Q4_0", "Q5_0", "IQ4_NL", "IQ4_XS"), (0,)),
    **dict.fromkeys(("Q4_1", "Q5_1", "Q4_K", "Q5_K"), (0, 2)),
    **{"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "MXFP4": ()},
}
"""Where a block's float16 numbers are."""


def check(name: str, raw: NDArray[numpy.uint8]) -> Tensor:
    kind = gguf.GGMLQuantizationType[name]
    with numpy.errstate(all="ignore"):
        expected = torch.from_numpy(gguf.dequantize(raw, kind))
    found = PARTS[name](torch.from_numpy(raw)).values()
    assert found.dtype == torch.float32
    assert found.shape == (len(raw), gguf.GGML_QUANT_SIZES[kind][0])
    nan = found.isnan()
    assert torch.equal(nan, expected.isnan())
    bits = [t.masked_fill(nan, 0).view(torch.int32) for t in (found, expected)]
    assert torch.equal(*bits)  # which tells 0 from -0
    return found


def noise(name: str, count: int, seed: int) -> NDArray[numpy.uint8]:
    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]][1]
    return numpy.random.default_rng(seed).integers(0, 256, (count, size), dtype=numpy.uint8)


def test_the_formats_are_known() -> None:
    assert SCALES.keys() == PARTS.keys() <= {f.name for f in FORMATS.values()}


@pytest.mark.parametrize("name", PARTS)
def test_any_bytes(name: str) -> None:
    """Scales of every kind among them: denormal, negative, infinite, not a number."""
    assert check(name, noise(name, 20_000, seed=0)).isfinite().float().mean() > 0.8


@pytest.mark.parametrize("name", PARTS)
def test_every_scale(name: str) -> None:
    raw = noise(name, 1 << 16, seed=1)
    every = numpy.arange(1 << 16, dtype=numpy.uint16)
    for i, at in enumerate(SCALES[name]):
        raw[:, at : at + 2] = numpy.roll(every, 9999 * i).view(numpy.uint8).reshape(-1, 2)
    raw[:, 0] = every if not SCALES[name] else raw[:, 0]
    check(name, raw)


@pytest.mark.parametrize("name", PARTS)
def test_every_quant_in_every_place(name: str) -> None:
    """Each byte takes each value while the others stay, with finite scales."""
    size = noise(name, 1, seed=2).shape[1]
    raw = noise(name, 1, seed=2).repeat(256 * size, 0)
    for at in SCALES[name]:
        raw[:, at : at + 2] = numpy.array([0.37], numpy.float16).view(numpy.uint8)
    places = numpy.arange(len(raw)) // 256
    free = ~numpy.isin(places, [at + i for at in SCALES[name] for i in (0, 1)])
    raw[numpy.arange(len(raw))[free], places[free]] = (numpy.arange(len(raw)) % 256)[free]
    assert check(name, raw).isfinite().float().mean() > (0.999 if name == "MXFP4" else 0.99999)


@pytest.mark.parametrize("name", [n for n in PARTS if "K" not in n and "IQ" not in n])
def test_weights_that_were_quantized(name: str) -> None:
    """By gguf, which writes no K- nor IQ-formats. They come back to within a step."""
    kind = gguf.GGMLQuantizationType[name]
    weights = numpy.random.default_rng(3).normal(size=(64, 1024)).astype(numpy.float32)
    raw = gguf.quantize(weights, kind).reshape(-1, gguf.GGML_QUANT_SIZES[kind][1])
    found = check(name, raw).reshape(64, 1024)
    step = 2 * numpy.abs(weights).max() / {"Q8": 255, "Q5": 31, "Q4": 15, "MX": 6}[name[:2]]
    assert (found - torch.from_numpy(weights)).abs().max() <= step
