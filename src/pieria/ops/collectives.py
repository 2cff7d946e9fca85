"""What the ranks of a group do together. A group of one rank does nothing.

Knows groups. Does not know who starts processes, nor why a tensor is cut. Not differentiable yet.
"""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from pieria.ops.op import Case, Cost, Inputs, nbytes, op
from pieria.parallel.mesh import Group


@op
def all_reduce(x: Tensor, group: Group) -> Tensor:
    """The sum of all ranks' x, the same on every rank.

    ValueError for a group of several that is not connected.
    """
    if group.size == 1:
        return x
    check_connected(x, group)
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=group.handle)
    return total


@all_reduce.shapes
def _(x: Tensor, group: Group) -> Tensor:
    return torch.empty_like(x)


@all_reduce.cost
def _(out: Tensor, x: Tensor, group: Group) -> Cost:
    """Of a ring: every rank sends each of the n parts twice, but for one of them each time."""
    if group.size == 1:
        return Cost()
    return Cost(
        flops=x.numel() * (group.size - 1) // group.size,
        bytes=nbytes(x, out),
        sent=2 * nbytes(x) * (group.size - 1) // group.size,
    )


@all_reduce.cases
def _(make: Inputs) -> Iterator[Case]:
    yield Case("one rank", (make.normal(3, 5), Group("tp")))


@op
def all_gather(x: Tensor, group: Group, dim: int = -1) -> Tensor:
    """All ranks' x in the order of ranks, joined along `dim`, the same on every rank.

    ValueError for a group of several that is not connected.
    """
    if group.size == 1:
        return x
    check_connected(x, group)
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in group.ranks]
    dist.all_gather(parts, x.contiguous(), group=group.handle)
    return torch.cat(parts, dim)


@all_gather.shapes
def _(x: Tensor, group: Group, dim: int = -1) -> Tensor:
    shape = list(x.shape)
    shape[dim] *= group.size
    return x.new_empty(shape)


@all_gather.cost
def _(out: Tensor, x: Tensor, group: Group, dim: int = -1) -> Cost:
    """Of a ring: every rank passes on all parts but the last that reaches it."""
    if group.size == 1:
        return Cost()
    return Cost(bytes=nbytes(x, out), sent=nbytes(x) * (group.size - 1))


@all_gather.cases
def _(make: Inputs) -> Iterator[Case]:
    yield Case("one rank", (make.normal(3, 5), Group("tp")))


def check_connected(x: Tensor, group: Group) -> None:
    """ValueError if ranks cannot talk in this group, or a gradient is wanted."""
    if group.handle is None:
        raise ValueError(f"group {group.axis}={group.size} is not connected; see Mesh.connect")
    if torch.is_grad_enabled() and x.requires_grad:
        raise ValueError(f"no gradient flows through a collective over {group.axis}={group.size}")
