"""Products of more rows than are packed at a time, for every instruction set."""

import importlib

import pytest
import torch

from pieria.kernels.cpu import native
from pieria.kernels.cpu.panels import pack
from tests.ops.harness import tolerance

kernels = importlib.import_module("pieria.kernels.cpu.linear")


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", list(native.DTYPES), ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("inputs", [3001, 1000])
def test_many_rows(dtype: torch.dtype, inputs: int) -> None:
    """Values, and every row's bits alone; sizes that fill neither blocks, panels nor steps."""
    generator = torch.Generator().manual_seed(0)
    rows, outputs = 250, 70
    x_MI = torch.randn(rows, inputs, generator=generator).to(dtype)
    weights = [torch.randn(outputs, inputs, generator=generator).to(dtype) for _ in range(2)]
    first, second = map(pack, weights)
    assert first and second
    wanted = [x_MI.double() @ weight.double().T for weight in weights]
    found = kernels.linears(x_MI, (first, second), (None, None))
    for got, right in zip(found, wanted, strict=True):
        allowed = tolerance(dtype, inputs) * (right.abs() + right.square().mean().sqrt())
        assert ((got.double() - right).abs() <= allowed).all()
    gated = kernels.gated_linear(x_MI, first, second)
    for row in (0, 7, 12, 111, 112, 125, rows - 17, rows - 16, rows - 1):
        alone = x_MI[row : row + 1]
        assert torch.equal(kernels.linear(alone, first)[0], found[0][row])
        assert torch.equal(kernels.gated_linear(alone, first, second)[0], gated[row])
