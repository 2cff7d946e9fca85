"""Steps of one token a request, recorded once for each of a few sizes and replayed after that.

A recorded step reads its tokens, positions, slots and page tables from buffers of its own; requests
that are fewer than a recording has rows leave rows that see and write nothing.

Knows plans, models and what a backend's recordings offer. Knows no device by name.
"""

import ctypes
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from struct import Struct
from typing import Any, Protocol

import torch
from torch import Tensor

from pieria import ops
from pieria.engine.batch import LayerCache, Paged
from pieria.engine.plan import Chunk
from pieria.models.decoder import Decoder

log = logging.getLogger(__name__)


class Recording(Protocol):
    """Calls made once, to be made again. obstacle: what kept them from being recorded, if anything,
    when so much as `at` was done.
    """

    obstacle: str | None
    at: int

    def replay(self) -> None: ...


Record = Callable[[Any, Callable[[], int]], AbstractContextManager[Recording]]
"""From an arena, and what says how much is done."""


def sizes(most: int) -> list[int]:
    """How many rows recordings have: every number up to 32, then steps of at most a 16th.

    A row that is nobody's costs as much as another, a recording some kilobytes.
    """
    found = [1]
    while found[-1] < most:
        found.append(min(most, found[-1] + max(1, found[-1] // 16)))
    return found


class Step:
    """One recorded size: its buffers, what is in them, and what the calls make of that."""

    def __init__(
        self,
        rows: int,
        chunks: Sequence[Chunk],
        windows: int,
        width: int,
        page_tokens: int,
        caches: Sequence[LayerCache],
        tables: Sequence[int | None],
    ) -> None:
        """chunks: the first to be asked for, for ops that have no kernel and look at what the host
        knows. windows: page tables. width: pages that the longest request has.
        """
        self.rows = rows
        self.page_tokens = page_tokens
        # Side by side, so that one copy fills them: tokens, positions, contexts, states that are
        # read and written, slots by table.
        self._numbers = torch.zeros((5 + windows) * rows, dtype=torch.int64)
        parts = self._numbers.view(5 + windows, rows)
        self.tokens_T = parts[0]
        self._pages = [torch.zeros(rows, width, dtype=torch.int64) for _ in range(windows)]
        self._in_pages: list[list[tuple[int, ...]]] = [[()] * rows for _ in range(windows)]
        layout = Struct(f"{len(self._numbers)}q")
        self._pack = layout.pack_into
        self._into = (ctypes.c_char * layout.size).from_address(self._numbers.data_ptr())
        starts_R1 = torch.arange(rows + 1)
        ones = (1,) * rows
        known = [(c.end, c.reads, c.writes) for c in chunks]
        known += [(0, -1, -1)] * (rows - len(chunks))
        contexts, reads, writes = zip(*known, strict=True)
        self.context = Paged(
            positions_T=parts[1],
            slots=tuple(parts[5:]),
            pagings=tuple(
                ops.Paging(pages, starts_R1, parts[2], ones, contexts) for pages in self._pages
            ),
            tables=tables,
            caches=caches,
            state_slots=ops.Slots(parts[3], parts[4], starts_R1, ones, reads, writes),
        )
        self.recording: Recording | None = None
        self.logits_RV: Tensor | None = None

    def fill(self, chunks: Sequence[Chunk]) -> None:
        """Ask for these, one row each; the rows that are left over see nothing."""
        spare = self.rows - len(chunks)
        size = self.page_tokens
        places = [divmod(c.start, size) for c in chunks]
        numbers = [c.tokens[0] for c in chunks] + [0] * spare
        numbers += [c.start for c in chunks] + [0] * spare
        numbers += [c.start + 1 for c in chunks] + [0] * spare
        numbers += [c.reads for c in chunks] + [-1] * spare
        numbers += [c.writes for c in chunks] + [-1] * spare
        for table, (pages_RP, known) in enumerate(zip(self._pages, self._in_pages, strict=True)):
            for row, chunk in enumerate(chunks):
                pages = chunk.tables[table]
                if pages != known[row]:
                    known[row] = pages
                    pages_RP[row, : len(pages)] = torch.tensor(pages).clamp_(min=0)
            numbers += [
                c.tables[table][page] * size + at
                for c, (page, at) in zip(chunks, places, strict=True)
            ]
            numbers += [-1] * spare
        self._pack(self._into, 0, *numbers)


class Captured:
    """The recorded steps of one model, made as they are needed."""

    def __init__(
        self,
        model: Decoder,
        caches: Sequence[LayerCache],
        tables: Sequence[int | None],
        page_tokens: int,
        width: int,
        most: int,
        record: Record,
        arena: Any,
    ) -> None:
        """width: pages that the longest request has. most: requests in a step.

        steps: those recorded so far, by their rows.
        """
        self.model = model
        self._sizes = sizes(most)
        self.steps: dict[int, Step] = {}
        self._record = record
        self._arena = arena
        windows = 1 + max((t for t in tables if t is not None), default=0)
        self._shape = windows, width, page_tokens
        self._caches, self._tables = caches, tables
        self.obstacle: str | None = None

    @property
    def recorded(self) -> list[int]:
        """The sizes that were recorded so far."""
        return sorted(self.steps)

    def takes(self, chunks: Sequence[Chunk]) -> bool:
        """Whether these can be a recorded step."""
        return (
            self.obstacle is None
            and len(chunks) <= self._sizes[-1]
            and all(len(c.tokens) == 1 and c.draw is not None and not c.targets for c in chunks)
        )

    def logits(self, chunks: Sequence[Chunk]) -> Tensor:
        """[R, V] of what follows each chunk; valid until the next call."""
        rows = next(size for size in self._sizes if size >= len(chunks))
        if not self.steps:
            # Whether all ops have kernels is not known yet: those without would not leave out rows
            # that are nobody's.
            rows = len(chunks)
        step = self.steps.get(rows)
        if step is None:
            step = Step(rows, chunks, *self._shape, self._caches, self._tables)
        step.fill(chunks)
        if step.recording is not None:
            step.recording.replay()
        else:
            with ops.trace() as calls, self._record(self._arena, lambda: len(calls)) as recording:
                hidden_TD = self.model(step.tokens_T, step.context)
                step.logits_RV = self.model.logits(hidden_TD)
            assert recording.obstacle is None or not self.steps, recording.obstacle
            if recording.obstacle is None:
                step.recording = recording
                self.steps[rows] = step
            else:
                at = f"op {calls[recording.at].op.name}" if recording.at < len(calls) else "the end"
                self._give_up(f"{recording.obstacle} at {at}")
        assert step.logits_RV is not None
        return step.logits_RV[: len(chunks)]

    def _give_up(self, obstacle: str) -> None:
        self.obstacle = obstacle
        log.info("steps are not recorded, because of %s", obstacle)
