"""Kernels that keep a state of each request: whole prompts against pieces of them, bit for bit, at
the sizes of a model; and rows that are nobody's.
"""

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pieria.ops import REGISTRY, Inputs, Slots, load

load("cpu")
LENGTHS = (1, 70, 2, 33)
Run = Callable[[list[Tensor], Tensor, Slots], Tensor]


def gated_delta(dtype: torch.dtype) -> tuple[list[Tensor], Tensor, Run]:
    """Columns that fill one task and a part of the next; a number of rows that is odd."""
    make, tokens, (groups, heads, size, v_size) = Inputs(dtype), sum(LENGTHS), (2, 4, 129, 75)
    given = [
        make.normal(tokens, groups, size),
        make.normal(tokens, groups, size),
        make.normal(tokens, heads, v_size),
        -make.normal(tokens, heads).abs().float(),
        make.normal(tokens, heads).sigmoid().float(),
    ]
    function = REGISTRY["gated_delta"].implementations["cpu"][0].function
    state = Inputs(torch.float32).normal(3 * len(LENGTHS), heads, size, v_size)
    return given, state, lambda xs, state, slots: function(*xs, state, slots, scale=0.3)


def causal_conv(dtype: torch.dtype) -> tuple[list[Tensor], Tensor, Run]:
    make, channels, taps = Inputs(dtype), 301, 4
    weight_CW = make.normal(channels, taps)
    function = REGISTRY["causal_conv"].implementations["cpu"][0].function
    state = make.normal(3 * len(LENGTHS), taps - 1, channels)
    given = [make.normal(sum(LENGTHS), channels)]
    return given, state, lambda xs, state, slots: function(*xs, weight_CW, state, slots)


@pytest.mark.parametrize("make", [gated_delta, causal_conv])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_pieces_are_the_whole(
    isa: str,
    dtype: torch.dtype,
    make: Callable[[torch.dtype], tuple[list[Tensor], Tensor, Run]],
) -> None:
    given, state, run = make(dtype)
    count = len(LENGTHS)
    reads, writes = [0, -1, 2, 3], [0, 1, 2 + count, 3]
    whole_state = state.clone()
    whole = run(given, whole_state, Slots.of(LENGTHS, reads, writes))
    chance = random.Random(1)
    starts = [sum(LENGTHS[:r]) for r in range(count)]
    for _ in range(3):
        mine, done, found = state.clone(), [0] * count, torch.empty_like(whole)
        at = list(reads)
        while any(d < n for d, n in zip(done, LENGTHS, strict=True)):
            live = [r for r in range(count) if done[r] < LENGTHS[r] and chance.random() < 0.7]
            if not live:
                continue
            takes = [min(chance.choice([1, 2, 17]), LENGTHS[r] - done[r]) for r in live]
            spans = [
                slice(starts[r] + done[r], starts[r] + done[r] + n)
                for r, n in zip(live, takes, strict=True)
            ]
            # In place, or to another slot: what is read must not be lost on the way.
            into = [chance.choice([r, r + 2 * count]) for r in live]
            slots = Slots.of(takes, [at[r] for r in live], into)
            parts = [torch.cat([x[span] for span in spans]) for x in given]
            pieces = torch.split(run(parts, mine, slots), takes)
            for r, span, n, to, piece in zip(live, spans, takes, into, pieces, strict=True):
                found[span] = piece
                done[r], at[r] = done[r] + n, to
        assert torch.equal(found, whole)
        assert all(torch.equal(mine[at[r]], whole_state[writes[r]]) for r in range(count))


@pytest.mark.parametrize("make", [gated_delta, causal_conv])
def test_rows_that_are_nobodys_write_nothing(
    isa: str, make: Callable[[torch.dtype], tuple[list[Tensor], Tensor, Run]]
) -> None:
    """As in a recorded step with fewer requests than rows."""
    given, state, run = make(torch.bfloat16)
    given = [x[:4] for x in given]
    state[5:] = torch.nan
    before = state.clone()
    out = run(given, state, Slots.of((1,) * 4, [2, 0, -1, -1], [2, 1, -1, -1]))
    assert out.isfinite().all()
    untouched = [i for i in range(len(state)) if i not in (1, 2)]
    assert torch.equal(state[untouched].view(torch.uint8), before[untouched].view(torch.uint8))
    assert not torch.equal(state[2], before[2]) and not torch.equal(state[1], before[1])
