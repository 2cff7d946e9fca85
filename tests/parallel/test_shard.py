import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pieria.parallel.mesh import Mesh
from pieria.parallel.shard import REPLICATED, Shard, column, expert, row, vocabulary


@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 4), st.booleans())
def test_the_parts_make_the_whole(units: int, granularity: int, other: int, rows: bool) -> None:
    shard = row(granularity) if rows else column(granularity)
    [cut] = shard.cuts
    shape = (other, units * granularity) if rows else (units * granularity, other)
    whole = torch.arange(other * units * granularity).reshape(shape)
    assert cut.sizes(shape) == [n for n in range(1, units + 1) if units % n == 0]
    for size in cut.sizes(shape):
        parts = []
        for index in range(size):
            mesh = Mesh(tp=size, rank=index)
            first, last = shard.spans(shape, mesh)[cut.dim]
            assert first % granularity == last % granularity == 0
            part = whole.narrow(cut.dim, first, last - first)
            assert part.shape == shard.local(shape, mesh)
            parts.append(part)
        assert torch.equal(torch.cat(parts, cut.dim), whole)


def test_experts_are_cut_twice() -> None:
    shape = (4, 6, 5)
    spans = [expert(1).spans(shape, Mesh(ep=2, tp=3, rank=r)) for r in range(6)]
    assert spans[0] == ((0, 2), (0, 2), (0, 5))
    assert spans[5] == ((2, 4), (4, 6), (0, 5))
    assert len(set(spans)) == 6


@pytest.mark.parametrize(
    ("shard", "shape", "mesh", "message"),
    [
        (
            column(64),
            (192, 8),
            Mesh(tp=2),
            "192 rows in groups of 64 (column cut, dimension 0 of (192, 8)) do not divide over"
            " tp=2; sizes that work: 1, 3",
        ),
        (
            row(),
            (8, 6),
            Mesh(tp=4),
            "6 rows (row cut, dimension 1 of (8, 6)) do not divide over tp=4; sizes that work: 1,",
        ),
        (column(64), (100,), Mesh(tp=2), "sizes that work: none"),
        (expert(), (8, 2, 2), Mesh(ep=3), "do not divide over ep=3; sizes that work: 1, 2, 4, 8"),
        (expert(1), (8, 3), Mesh(ep=2, tp=2), "do not divide over tp=2; sizes that work: 1, 3"),
        (vocabulary(), (151, 4), Mesh(tp=2), "sizes that work: 1, 151"),
    ],
)
def test_a_cut_that_does_not_divide_is_refused(
    shard: Shard, shape: tuple[int, ...], mesh: Mesh, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        shard.local(shape, mesh)


def test_what_is_replicated_is_whole_everywhere() -> None:
    mesh = Mesh(tp=2, rank=1)
    assert REPLICATED.local((5, 3), mesh) == (5, 3)
    assert REPLICATED.spans((5, 3), mesh) == ((0, 5), (0, 3))
