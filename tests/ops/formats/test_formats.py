"""Formats that tensors are brought into: what is held, how near it is, what it is measured by."""

import pytest
import torch
from torch import Tensor

from pieria import ops
from pieria.ops.formats import QUANTIZED, Float8, Integer, activations

BITS = {"int8": 8.1, "int8-g32": 8.6, "int4": 4.6, "fp8": 8.1}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def relative(got: Tensor, want: Tensor) -> float:
    return float((got - want).norm() / want.norm())


@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.parametrize("shape", [(48, 256), (3, 40, 128), (130, 384)])
def test_bytes_and_error(name: str, shape: tuple[int, ...]) -> None:
    format, x = QUANTIZED[name], normal(*shape)
    weight = format.quantize(x)
    assert format.name == name == weight.format.name
    assert weight.nbytes == format.nbytes(shape)
    found = ops.dense(weight)
    assert found.shape == x.shape and found.dtype == x.dtype
    most = {"int8": 0.011, "int4": 0.12, "fp8": 0.03}[name.split("-")[0]]
    assert relative(found, x) < (0.055 if "e5m2" in name else most)


@pytest.mark.parametrize("name", QUANTIZED)
def test_what_is_held_comes_back(name: str) -> None:
    """Numbers that the format has are held exactly."""
    format = QUANTIZED[name]
    once = ops.dense(format.quantize(normal(128, 256)))
    again = ops.dense(format.quantize(once))
    assert relative(again, once) < (0.01 if "int4" in name else 1e-3)


@pytest.mark.parametrize("name", QUANTIZED)
def test_zeros_and_lone_numbers(name: str) -> None:
    x = torch.zeros(128, 256)
    x[3, 5], x[4, 250] = 1.5, -2.0
    assert torch.allclose(ops.dense(QUANTIZED[name].quantize(x)), x, rtol=1e-3)


@pytest.mark.parametrize("name", QUANTIZED)
def test_what_no_format_holds(name: str) -> None:
    x = normal(128, 256)
    x[7, 7] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        QUANTIZED[name].quantize(x)


def test_inputs_that_are_no_groups() -> None:
    with pytest.raises(ValueError, match="96 inputs do not divide into groups of 64"):
        Integer(4, 64).quantize(normal(8, 96))


def test_a_scale_of_each_block() -> None:
    """As DeepSeek's: 128 x 128, both ends cut short."""
    x = normal(200, 300)
    x[128:, 256:] *= 1000
    codes, scales = Float8(blocks=True).quantize(x).tensors
    most = torch.stack(
        [torch.stack([b.abs().max() for b in r.split(128, 1)]) for r in x.split(128)]
    )
    assert torch.allclose(scales, most / 448)
    assert codes.float().abs().max() == 448


def test_int8_of_activations() -> None:
    """By hand: the largest is 127, halves go to the even side, and a row knows no other."""
    x = torch.tensor([[127.0, 0.5, 1.5, -126.6], [0.0, 0.0, 0.0, 0.0], [12.7, 1.0, -0.04, 0.06]])
    want = [[127, 0, 2, -127], [0, 0, 0, 0], [127, 10, 0, 1]]
    got = activations.Int8(None)(x)
    scales = torch.tensor([[1.0], [0.0], [0.1]])
    assert torch.allclose(got, torch.tensor(want) * scales)


def test_groups_of_activations() -> None:
    x = normal(5, 72) * torch.logspace(-2, 2, 72)
    got = activations.Int8(32)(x)
    for low in (0, 32, 64):
        part = slice(low, low + 32)
        assert torch.equal(got[:, part], activations.Int8(None)(x[:, part]))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(
    "rule", [activations.Int8(None), activations.Float8(torch.float8_e4m3fn, 128)]
)
def test_what_is_not_finite_stays_so(rule: activations.Int8, bad: float) -> None:
    """In its group; others are what they were."""
    x = normal(2, 16)
    x[0, 3] = bad
    got = rule(x)
    assert not got[0].isfinite().any()
    assert got[1].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_product(dtype: torch.dtype) -> None:
    """Of x rounded with the weight as held, in the dtype of x."""
    x, weight = normal(3, 64).to(dtype), Integer(8).quantize(normal(10, 64, seed=1).to(dtype))
    got = ops.linear(x, weight)
    codes, scales = (t.double() for t in weight.tensors)
    most = x.float().abs().amax(1, keepdim=True)
    rounded = torch.round(x.float() * (127 / most)).double() @ codes.T
    want = rounded * (most.double() / 127) * scales.T
    assert got.dtype == dtype
    eps = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
    assert torch.allclose(got.double(), want, rtol=4 * eps, atol=1e-5)
