"""Where the states of requests are, for ops that keep one of constant size for each request.

R requests, T tokens of all of them side by side, S slots.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pieria.ops.op import Inputs, nbytes


@dataclass(frozen=True)
class Slots:
    """Which state each request goes on from, and where it leaves the one after its last token.

    reads_R: slots; -1: the beginning, a state of zeros. writes_R: slots, no two equal; one may be
    the request's own of reads_R, none another's. Both int64. lengths: tokens of each request.
    """

    reads_R: Tensor
    writes_R: Tensor
    lengths: tuple[int, ...]

    @staticmethod
    def of(
        reads: Sequence[int],
        writes: Sequence[int],
        lengths: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> "Slots":
        return Slots(
            torch.tensor(reads, dtype=torch.int64, device=device),
            torch.tensor(writes, dtype=torch.int64, device=device),
            tuple(lengths),
        )

    def before(self, state_S: Tensor) -> Tensor:
        """A copy [R, ...] of what requests go on from, in a cache [S, ...]."""
        begins_R = (self.reads_R < 0).view(-1, *[1] * (state_S.ndim - 1))
        return state_S[self.reads_R.clamp(min=0)].masked_fill(begins_R, 0)

    def nbytes(self, state_S: Tensor) -> int:
        """Bytes of what requests go on from and of what they leave."""
        return 2 * len(self.lengths) * nbytes(state_S[:1])

    def token(self, i: int) -> tuple[slice, "Slots"]:
        """Which tokens the state after token i is made from, and where its request's states are."""
        first = 0
        for r, length in enumerate(self.lengths):
            if i < first + length:
                break
            first += length
        one = slice(r, r + 1)
        return slice(first, i + 1), Slots(self.reads_R[one], self.writes_R[one], (i + 1 - first,))


def some_slots(make: Inputs, lengths: tuple[int, ...], fresh: tuple[int, ...]) -> Slots:
    """For the requests of a case, among twice as many slots: those of `fresh` begin, others go on
    from a slot of their own; every other request writes where it read.
    """
    requests = range(len(lengths))
    reads = [-1 if r in fresh else 2 * r for r in requests]
    return Slots.of(reads, [2 * r + r % 2 for r in requests], lengths, make.device)
