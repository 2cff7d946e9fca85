"""Where the states of requests are, for ops that keep one of constant size for each request.

R requests, T tokens of all of them side by side, S slots.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from pieria.ops.op import Inputs, nbytes


@dataclass(frozen=True)
class Slots:
    """Which state each request goes on from, and where it leaves the one after its last token.

    reads_R: slots; -1: the beginning, a state of zeros. writes_R: slots, no two equal; one may be
    what its own request reads, none what another reads. starts_R1: where each request's tokens
    begin, and T. All int64.
    lengths: tokens of each request. lengths, reads, writes: on the host.
    """

    reads_R: Tensor
    writes_R: Tensor
    starts_R1: Tensor
    lengths: tuple[int, ...]
    reads: tuple[int, ...]
    writes: tuple[int, ...]

    @staticmethod
    def of(
        lengths: Sequence[int],
        reads: Sequence[int],
        writes: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> "Slots":
        def tensor(values: Sequence[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.int64, device=device)

        starts = tuple(accumulate(lengths, initial=0))
        reads_R, writes_R, starts_R1 = (tensor(x) for x in (reads, writes, starts))
        return Slots(reads_R, writes_R, starts_R1, tuple(lengths), tuple(reads), tuple(writes))

    @staticmethod
    def fresh(lengths: Sequence[int], device: torch.device | str = "cpu") -> "Slots":
        """All requests begin, and each has a slot."""
        return Slots.of(lengths, [-1] * len(lengths), range(len(lengths)), device)

    def before(self, state_S: Tensor) -> Tensor:
        """A copy [R, ...] of what requests go on from, in a cache [S, ...]."""
        begins_R = (self.reads_R < 0).view(-1, *[1] * (state_S.ndim - 1))
        return state_S[self.reads_R.clamp(min=0)].masked_fill(begins_R, 0)

    def nbytes(self, state_S: Tensor) -> int:
        """Bytes of the states that are read and of those that are written."""
        read = sum(read >= 0 for read in self.reads)
        return (read + len(self.writes)) * nbytes(state_S[:1])

    def token(self, i: int) -> tuple[slice, "Slots"]:
        """The tokens of token i's request up to it, and their slots."""
        starts = list(accumulate(self.lengths, initial=0))
        r = bisect_right(starts, i) - 1
        one, length = slice(r, r + 1), i + 1 - starts[r]
        slots = Slots.of((length,), self.reads[one], self.writes[one], self.reads_R.device)
        return slice(starts[r], i + 1), slots


def some_slots(make: Inputs, lengths: tuple[int, ...], fresh: tuple[int, ...]) -> Slots:
    """Slots for the requests of a case, among twice as many.

    Those of `fresh` begin; every other request writes where it reads, or would.
    """
    requests = range(len(lengths))
    reads = [-1 if r in fresh else 2 * r for r in requests]
    return Slots.of(lengths, reads, [2 * r + r % 2 for r in requests], make.device)
