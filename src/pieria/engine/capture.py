"""Steps of one token a request, recorded once for each of a few sizes and replayed after that; and
the step that a long prompt takes most often, the largest there is.

A recorded step reads its tokens, positions, slots and page tables from buffers of its own; requests
that are fewer than a recording has rows leave rows that see and write nothing.

Knows plans, models and what a backend's recordings offer. Knows no device by name.
"""

import ctypes
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
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

    def replay(self, beat: Callable[[], None] | None = None) -> None: ...


Record = Callable[[Any, Callable[[], int]], AbstractContextManager[Recording]]
"""From an arena, and what says how much is done."""


@dataclass(frozen=True)
class Recorder:
    """What a backend offers to record with. arena: makes the memory that recorded steps share."""

    record: Record
    arena: Callable[[], Any]


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
        tokens: int = 1,
    ) -> None:
        """chunks: the first to be asked for, for ops that have no kernel and look at what the host
        knows. windows: page tables. width: pages that the longest request has. tokens: of a chunk.
        """
        self.rows = rows
        self.tokens = tokens
        self.page_tokens = page_tokens
        # Side by side, so that one copy fills them: tokens, positions, slots by table; contexts,
        # states that are read and written.
        of_tokens = (2 + windows) * rows * tokens
        self._numbers = torch.zeros(of_tokens + 3 * rows, dtype=torch.int64)
        self.tokens_T, positions_T, *slots = self._numbers[:of_tokens].view(2 + windows, -1)
        contexts_R, reads_R, writes_R = self._numbers[of_tokens:].view(3, rows)
        self._pages = [torch.zeros(rows, width, dtype=torch.int64) for _ in range(windows)]
        self._in_pages: list[list[tuple[int, ...]]] = [[()] * rows for _ in range(windows)]
        layout = Struct(f"{len(self._numbers)}q")
        self._pack = layout.pack_into
        self._into = (ctypes.c_char * layout.size).from_address(self._numbers.data_ptr())
        starts_R1 = torch.arange(0, rows * tokens + 1, tokens)
        lengths = (tokens,) * rows
        known = [(c.end, c.reads, c.writes) for c in chunks]
        known += [(0, -1, -1)] * (rows - len(chunks))
        contexts, reads, writes = zip(*known, strict=True)
        self.context = Paged(
            positions_T=positions_T,
            slots=tuple(slots),
            pagings=tuple(
                ops.Paging(pages, starts_R1, contexts_R, lengths, contexts) for pages in self._pages
            ),
            tables=tables,
            caches=caches,
            state_slots=ops.Slots(reads_R, writes_R, starts_R1, lengths, reads, writes),
        )
        self.recording: Recording | None = None
        self.made: Tensor | None = None

    def fill(self, chunks: Sequence[Chunk]) -> None:
        """Ask for these, one row each; the rows that are left over see nothing."""
        spare_rows = self.rows - len(chunks)
        spare = spare_rows * self.tokens
        size = self.page_tokens
        places = [(c, *divmod(p, size)) for c in chunks for p in range(c.start, c.end)]
        numbers = [token for c in chunks for token in c.tokens] + [0] * spare
        numbers += [page * size + at for _, page, at in places] + [0] * spare
        for table, (pages_RP, known) in enumerate(zip(self._pages, self._in_pages, strict=True)):
            for row, chunk in enumerate(chunks):
                pages = chunk.tables[table]
                if pages != known[row]:
                    known[row] = pages
                    pages_RP[row, : len(pages)] = torch.tensor(pages).clamp_(min=0)
            numbers += [c.tables[table][page] * size + at for c, page, at in places] + [-1] * spare
        numbers += [c.end for c in chunks] + [0] * spare_rows
        numbers += [c.reads for c in chunks] + [-1] * spare_rows
        numbers += [c.writes for c in chunks] + [-1] * spare_rows
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
        most_tokens: int,
        record: Record,
        arena: Any,
    ) -> None:
        """width: pages that the longest request has. most, most_tokens: requests and tokens of a
        step.

        steps: those recorded so far, by their rows. prompt: the one of a prompt, once there is one.
        beat: called now and then while a prompt's is replayed, which may take minutes.
        """
        self.beat: Callable[[], None] | None = None
        self.model = model
        self._sizes = sizes(most)
        self.steps: dict[int, Step] = {}
        self.prompt: Step | None = None
        self._prompt_tokens = most_tokens if most_tokens > 1 else 0
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
                step.made = self.model.logits(hidden_TD)
            assert recording.obstacle is None or not self.steps, recording.obstacle
            if recording.obstacle is None:
                step.recording = recording
                self.steps[rows] = step
            else:
                at = f"op {calls[recording.at].op.name}" if recording.at < len(calls) else "the end"
                self._give_up(f"{recording.obstacle} at {at}")
        assert step.made is not None
        return step.made[: len(chunks)]

    def takes_prompt(self, chunks: Sequence[Chunk]) -> bool:
        """Whether this is as much of one prompt as a step may have."""
        return len(chunks) == 1 and len(chunks[0].tokens) == self._prompt_tokens

    def hidden(self, chunk: Chunk) -> Tensor:
        """[T, D] of a chunk that is taken as a prompt; valid until the next call."""
        step = self.prompt
        if step is None:
            tokens = len(chunk.tokens)
            step = Step(1, [chunk], *self._shape, self._caches, self._tables, tokens)
        step.fill([chunk])
        if step.recording is not None:
            step.recording.replay(self.beat)
        else:
            # No trace of the calls: it would keep all that they make, where it can be used again.
            with self._record(self._arena, lambda: 0) as recording:
                step.made = self.model(step.tokens_T, step.context)
            if recording.obstacle is None:
                step.recording, self.prompt = recording, step
            else:
                self._prompt_tokens = 0
                log.info("steps of a prompt are not recorded, because of %s", recording.obstacle)
        assert step.made is not None
        return step.made

    def _give_up(self, obstacle: str) -> None:
        self.obstacle = obstacle
        log.info("steps are not recorded, because of %s", obstacle)
