"""How experts are spread beyond what a mesh says: over ranks that have requests of their own.

Along the mesh's ep axis every rank computes attention alike. Engines on many cards also let each
rank (or each tensor-parallel group of ranks) have requests of its own, and send tokens to experts
and back. Knows works. Does not know devices.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pieria.plan.work import Exchange, Experts, Work


@dataclass(frozen=True)
class Spread:
    """attention_dp: groups of `tp` ranks that have requests of their own and share experts.

    whole: each of those tp * attention_dp ranks has some experts, else a part of every one.
    spare: copies of experts beyond their number, so that busy ones are in several places.
    """

    tp: int = 1
    attention_dp: int = 1
    whole: bool = False
    spare: int = 0

    @property
    def ranks(self) -> int:
        return self.tp * self.attention_dp

    def over(self, made: Sequence[Work], row_bytes: int) -> list[Work]:
        """The works of one rank so spread, of those where its own tp ranks have all experts.

        row_bytes: of a token's hidden state.
        """
        if self.attention_dp == 1 and not self.whole:
            return list(made)
        changed: list[Work] = []
        waiting: Experts | None = None
        for work in made:
            if isinstance(work, Experts):
                waiting = work
                if self.attention_dp > 1:
                    changed.append(self._out(work, row_bytes))
                changed.append(self._here(work))
            elif isinstance(work, Exchange) and work.op == "all_reduce" and waiting is not None:
                # What experts and the shared network gave is summed here, over tp and over ep.
                if self.attention_dp > 1 and work.ranks <= self.tp:
                    changed.append(self._back(waiting, row_bytes))
                    waiting = None
                else:
                    changed.append(work)
            else:
                changed.append(work)
        return changed

    def _here(self, work: Experts) -> Experts:
        size = work.size * self.tp
        tokens = work.tokens * self.attention_dp
        if self.whole:
            here = -(-(work.here + self.spare) // self.ranks)
            return replace(work, tokens=tokens, here=here, size=size)
        return replace(work, tokens=tokens, size=max(1, size // self.ranks))

    def _out(self, work: Experts, row_bytes: int) -> Exchange:
        """Tokens to their experts: each to every rank that has one of its own, or to all ranks."""
        if self.whole:
            return self._sent("dispatch", work, row_bytes)
        return Exchange("all_gather", work.tokens * self.attention_dp * row_bytes, self.ranks, 1)

    def _back(self, work: Experts, row_bytes: int) -> Exchange:
        if self.whole:
            return self._sent("combine", work, row_bytes)
        return Exchange(
            "reduce_scatter", work.tokens * self.attention_dp * row_bytes, self.ranks, 1
        )

    def _sent(self, op: str, work: Experts, row_bytes: int) -> Exchange:
        copies = min(work.top, self.ranks)
        sent = copies * row_bytes * work.tokens / self.tp
        return Exchange(op, sent, self.ranks, 1, copies)
