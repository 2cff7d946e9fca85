"""Sums and joins over three gloo processes, and what a ring sends."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from pieria import ops
from pieria.parallel.mesh import Group


def of_rank(rank: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.arange(12).view(4, 3) * (rank + 1)).to(dtype)


def sums(rank: int, group: Group) -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        x = of_rank(rank, dtype)
        want = sum(of_rank(r, dtype) for r in range(group.size))
        assert torch.equal(ops.all_reduce(x, group), want)
        assert torch.equal(x, of_rank(rank, dtype)), "the argument was changed"
        total = ops.all_reduce(x.T, group)
        assert torch.equal(total, want.T)


def joins(rank: int, group: Group) -> None:
    for dim in (0, 1, -1):
        for turn in (False, True):
            parts = [of_rank(r).T if turn else of_rank(r) for r in range(group.size)]
            got = ops.all_gather(parts[rank], group, dim)
            assert torch.equal(got, torch.cat(parts, dim))
            assert got.shape == ops.all_gather(parts[rank].to("meta"), group, dim).shape


def refusals(rank: int, group: Group) -> None:
    for op in (ops.all_reduce, ops.all_gather):
        with pytest.raises(ValueError, match="no gradient"):
            op(of_rank(rank).requires_grad_(), group)
        with torch.no_grad():
            op(of_rank(rank).requires_grad_(), group)


def start(rank: int, size: int, store: str) -> None:
    """One rank's process."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    for check in (sums, joins, refusals):
        check(rank, Group("tp", tuple(range(size)), rank, dist.group.WORLD))
    # Torch 2.7 may deadlock when a gloo group is destroyed: it joins a thread that waits for the
    # interpreter lock. Nothing is left to clean up.
    os._exit(0)


@pytest.mark.dist
def test_every_rank_gets_the_whole(tmp_path: Path) -> None:
    multiprocessing.spawn(start, (3, str(tmp_path / "store")), nprocs=3)


def test_one_rank_has_nothing_to_do() -> None:
    x = torch.ones(2, 3)
    assert ops.all_reduce(x, Group("tp")) is x
    assert ops.all_gather(x, Group("tp")) is x


@pytest.mark.parametrize("op", [ops.all_reduce, ops.all_gather])
def test_a_group_that_is_not_connected_is_named(op: Callable[..., torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="tp=2 is not connected"):
        op(torch.ones(2), Group("tp", (0, 1)))


def test_what_a_ring_sends() -> None:
    """Four ranks and 96 bytes: a reduction passes 3 quarters twice, a gathering 3 whole parts."""
    group, x = Group("tp", (0, 1, 2, 3)), torch.empty(4, 6, device="meta")
    with ops.trace() as calls:
        assert ops.all_reduce(x, group).shape == (4, 6)
        assert ops.all_gather(x, group).shape == (4, 24)
        assert ops.all_gather(x, group, 0).shape == (16, 6)
        ops.all_reduce(x, Group("tp"))
    assert [call.cost.sent for call in calls] == [2 * 72, 3 * 96, 3 * 96, 0]
    assert calls[0].cost.bytes == 2 * 96
    assert calls[1].cost.bytes == 5 * 96
