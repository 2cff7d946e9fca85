"""Rounding keys, values and latents: for every instruction set the very bytes of the definition."""

import math

import pytest
import torch
from torch import Tensor

from pieria import ops
from pieria.kernels.cpu import native
from pieria.ops.kv_write import LARGEST, rounded

ops.load("cpu")
KV_WRITE = ops.kv_write.implementations["cpu"][-1]
LATENT_WRITE = ops.latent_write.implementations["cpu"][-1]

pytestmark = pytest.mark.usefixtures("isa")


def numbers(*shape: int, dtype: torch.dtype) -> Tensor:
    """Of every size, zeros, ties between neighbours, and one row each of NaN and infinity."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*shape, generator=generator)
    x *= torch.logspace(-6, 4, shape[0])[:, None, None]
    x[0] = 0
    x[1] = torch.arange(x[1].numel()).view(x[1].shape) / 2  # the largest is a scale's limit or not
    x[2, 0, :4] = torch.tensor([127.0, 0.5, 1.5, -2.5])
    x[2, 0, 4:] = 0
    x[3, 0, 3], x[4, -1, -1] = math.nan, -math.inf
    return x.to(dtype)


@pytest.mark.parametrize("held", LARGEST, ids=str)
@pytest.mark.parametrize("dtype", list(native.DTYPES), ids=str)
def test_bytes_of_keys_and_values(held: torch.dtype, dtype: torch.dtype) -> None:
    k, v = numbers(9, 3, 33, dtype=dtype), numbers(9, 3, 64, dtype=dtype)
    caches = [torch.full((4, 4, 3, x.shape[2]), 7).to(held) for x in (k, v)]
    scales = tuple(torch.full((4, 4, 3), 7.0) for _ in (k, v))
    slots = torch.tensor([3, 1, 0, 15, 9, 12, 4, -1, 8])
    assert KV_WRITE.supports(*caches, k, v, slots, scales)
    KV_WRITE.function(*caches, k, v, slots, scales)
    written = slots[slots >= 0]
    for cache, scale, x in zip(caches, scales, (k, v), strict=True):
        codes, wanted = rounded(x[slots >= 0], held)
        got = cache.flatten(0, 1)
        assert torch.equal(scale.flatten(0, 1)[written].nan_to_num(-1), wanted.nan_to_num(-1))
        fine = wanted.isfinite()
        assert not fine.all() and fine.any()
        assert torch.equal(got[written][fine].view(torch.uint8), codes[fine].view(torch.uint8))
        others = [slot for slot in range(16) if slot not in written.tolist()]
        assert (got[others].float() == 7).all() and (scale.flatten(0, 1)[others] == 7).all()


@pytest.mark.parametrize("held", LARGEST, ids=str)
def test_bytes_of_latents(held: torch.dtype) -> None:
    x = numbers(9, 1, 41, dtype=torch.bfloat16)[:, 0]
    cache, scale = torch.zeros(3, 4, 41, dtype=held), torch.zeros(3, 4)
    slots = torch.tensor([3, 1, 0, 11, 9, -1, 4, 10, 8])
    assert LATENT_WRITE.supports(cache, x[:, :30], x[:, 30:], slots, (scale,))
    LATENT_WRITE.function(cache, x[:, :30], x[:, 30:], slots, (scale,))
    codes, wanted = rounded(x[slots >= 0], held)
    written, fine = slots[slots >= 0], wanted.isfinite()
    assert torch.equal(scale.flatten()[written].nan_to_num(-1), wanted.nan_to_num(-1))
    got = cache.flatten(0, 1)[written][fine]
    assert torch.equal(got.view(torch.uint8), codes[fine].view(torch.uint8))
