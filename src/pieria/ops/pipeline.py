"""What pipeline stages hand on. A group of one rank does nothing.

Knows groups whose ranks are stages in order. Does not know what a stage computes. Not
differentiable yet.
"""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from pieria.ops.collectives import check_connected
from pieria.ops.op import Case, Cost, Inputs, nbytes, op
from pieria.parallel.mesh import Group


@op
def receive(like: Tensor, group: Group) -> Tensor:
    """What the stage before sends, of the shape and dtype of `like`; on the first stage, `like`."""
    if group.index == 0:
        return like
    check_connected(like, group)
    x = torch.empty_like(like, memory_format=torch.contiguous_format)
    dist.recv(x, group.ranks[group.index - 1], group=group.handle)
    return x


@receive.shapes
def _(like: Tensor, group: Group) -> Tensor:
    return torch.empty_like(like)


@receive.cost
def _(out: Tensor, like: Tensor, group: Group) -> Cost:
    return Cost(bytes=nbytes(out) if group.index else 0)


@receive.cases
def _(make: Inputs) -> Iterator[Case]:
    yield Case("one stage", (make.normal(3, 5), Group("pp")))


@op
def send(x: Tensor, group: Group) -> Tensor:
    """x, which the stage behind receives too; the last stage sends nothing."""
    if group.index < group.size - 1:
        check_connected(x, group)
        dist.send(x.contiguous(), group.ranks[group.index + 1], group=group.handle)
    return x


@send.shapes
def _(x: Tensor, group: Group) -> Tensor:
    return torch.empty_like(x)


@send.cost
def _(out: Tensor, x: Tensor, group: Group) -> Cost:
    sent = nbytes(x) if group.index < group.size - 1 else 0
    return Cost(bytes=sent, sent=sent)


@send.cases
def _(make: Inputs) -> Iterator[Case]:
    yield Case("one stage", (make.normal(3, 5), Group("pp")))


@op
def broadcast(x: Tensor, group: Group, source: int) -> Tensor:
    """The x of the group's rank number `source`, on every rank; the others' gives the shape."""
    if group.size == 1:
        return x
    check_connected(x, group)
    shared = x.clone(memory_format=torch.contiguous_format)
    dist.broadcast(shared, group.ranks[source], group=group.handle)
    return shared


@broadcast.shapes
def _(x: Tensor, group: Group, source: int) -> Tensor:
    return torch.empty_like(x)


@broadcast.cost
def _(out: Tensor, x: Tensor, group: Group, source: int) -> Cost:
    """Of a pipelined ring: every rank but the last passes everything on once."""
    if group.size == 1:
        return Cost()
    return Cost(bytes=nbytes(x, out), sent=nbytes(x))


@broadcast.cases
def _(make: Inputs) -> Iterator[Case]:
    yield Case("one stage", (make.normal(3, 5), Group("pp"), 0))
