"""The short convolution against torch's and transformers', whole and in pieces."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.qwen3_next.modeling_qwen3_next import causal_conv1d_update

from pieria import ops
from pieria.ops import Slots

C, W = 6, 4


@pytest.fixture(params=[(), ("torch",)], ids=["reference", "torch"], autouse=True)
def backend(request: pytest.FixtureRequest) -> None:
    ops.use(*request.param)
    request.addfinalizer(ops.use)


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def wanted(x_TC: Tensor, weight_CW: Tensor) -> Tensor:
    """One sequence, nothing before it."""
    padded = F.pad(x_TC.T, (weight_CW.shape[1] - 1, 0))[None]
    return F.silu(F.conv1d(padded, weight_CW[:, None], groups=len(weight_CW))[0].T)


@pytest.mark.parametrize("taps", [1, 2, 4, 9])
def test_it_is_torchs_convolution_then_silu(taps: int) -> None:
    x_TC, weight_CW = random(11, C), random(C, taps, seed=1)
    state = torch.full((1, taps - 1, C), torch.nan, dtype=torch.float64)
    got = ops.causal_conv(x_TC, weight_CW, state, Slots.fresh((11,)))
    torch.testing.assert_close(got, wanted(x_TC, weight_CW))
    assert torch.equal(state[0], F.pad(x_TC, (0, 0, taps, 0))[12:])


def test_a_step_is_that_of_transformers() -> None:
    x_TC, weight_CW, state = random(3, C), random(C, W, seed=1), random(5, W - 1, C, seed=2)
    theirs = state[[4, 0, 2]].mT.contiguous()
    expected = causal_conv1d_update(x_TC[:, :, None], theirs, weight_CW, activation="silu")
    got = ops.causal_conv(x_TC, weight_CW, state, Slots.of((1, 1, 1), (4, 0, 2), (1, 3, 2)))
    torch.testing.assert_close(got, expected[:, :, 0])
    assert torch.equal(state[[1, 3, 2]].mT, theirs)


@pytest.mark.parametrize("most", [1, 2, 5])
def test_pieces_are_the_whole(most: int) -> None:
    """Sequences side by side, some tokens at a time, from slot to slot."""
    lengths, weight_CW = (11, 3, 7), random(C, W, seed=1)
    whole = [random(n, C, seed=n) for n in lengths]
    state = torch.full((6, W - 1, C), torch.nan, dtype=torch.float64)
    found: list[list[Tensor]] = [[] for _ in lengths]
    for turn, start in enumerate(range(0, max(lengths), most)):
        live = [i for i, n in enumerate(lengths) if start < n]
        parts = [whole[i][start : start + most] for i in live]
        slots = Slots.of(
            [len(p) for p in parts],
            [2 * i + turn % 2 if turn else -1 for i in live],
            [2 * i + (turn + 1) % 2 for i in live],
        )
        made = ops.causal_conv(torch.cat(parts), weight_CW, state, slots)
        for i, part in zip(live, torch.split(made, list(slots.lengths)), strict=True):
            found[i].append(part)
    for i, x_TC in enumerate(whole):
        torch.testing.assert_close(torch.cat(found[i]), wanted(x_TC, weight_CW))
