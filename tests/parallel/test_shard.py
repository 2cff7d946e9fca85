import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pieria.parallel.shard import REPLICATED, Shard, column, expert, row, vocabulary


@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 4), st.booleans())
def test_the_parts_make_the_whole(units: int, granularity: int, other: int, rows: bool) -> None:
    shard = row(granularity) if rows else column(granularity)
    shape = (other, units * granularity) if rows else (units * granularity, other)
    whole = torch.arange(other * units * granularity).reshape(shape)
    assert shard.sizes(shape) == [n for n in range(1, units + 1) if units % n == 0]
    for size in shard.sizes(shape):
        parts = []
        for index in range(size):
            first, last = shard.span(shape, index, size)
            assert first % granularity == last % granularity == 0
            part = whole.narrow(shard.dim, first, last - first)
            assert part.shape == shard.local(shape, size)
            parts.append(part)
        assert torch.equal(torch.cat(parts, shard.dim), whole)


@pytest.mark.parametrize(
    ("shard", "shape", "size", "message"),
    [
        (column(64), (192, 8), 2, "192 rows in groups of 64 (column cut, dimension 0 of (192, 8)) do not divide over tp=2; sizes that work: 1, 3"),
        (row(), (8, 6), 4, "6 rows (row cut, dimension 1 of (8, 6)) do not divide over tp=4; sizes that work: 1, 2, 3, 6"),
        (column(64), (100,), 2, "sizes that work: none"),
        (expert(), (8, 2, 2), 3, "(expert cut, dimension 0 of (8, 2, 2)) do not divide over ep=3; sizes that work: 1, 2, 4, 8"),
        (vocabulary(), (151, 4), 2, "sizes that work: 1, 151"),
    ],
)  # fmt: skip
def test_a_cut_that_does_not_divide_is_refused(
    shard: Shard, shape: tuple[int, ...], size: int, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        shard.local(shape, size)


def test_what_is_replicated_is_whole_everywhere() -> None:
    assert REPLICATED.local((5, 3), 2) == (5, 3)
    assert REPLICATED.span((5, 3), 1, 2) == (0, 5)
