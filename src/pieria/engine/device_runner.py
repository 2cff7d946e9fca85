"""Runs plans on a device: one forward pass a step.

Knows a placed model and its caches. Does not know requests beyond their chunks, nor text, nor where
weights come from.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from pieria.engine.batch import LayerCache, pack
from pieria.engine.capture import Captured
from pieria.engine.plan import Chunk, ChunkResult, Logprob, StepPlan, StepResult
from pieria.engine.sampler import draw, logprobs
from pieria.engine.step_memory import logits_rows
from pieria.models.decoder import Decoder


class DeviceRunner:
    """One rank's part of a model.

    Only the first rank draws tokens; the others' results are empty.
    """

    def __init__(
        self,
        model: Decoder,
        caches: Sequence[LayerCache],
        tables: Sequence[int | None],
        page_tokens: int,
        device: str,
        captured: Captured | None = None,
    ) -> None:
        """caches, tables: of each layer; the page table is None for one that keeps a state.

        captured: the recorded steps, where the device has them.
        """
        self.model = model
        self.caches = caches
        self.tables = tables
        self.page_tokens = page_tokens
        self.device = device
        self.captured = captured
        self.first = model.mesh.rank == 0

    @torch.inference_mode()
    def run(self, plan: StepPlan) -> StepResult:
        chunks = plan.chunks
        if self.captured is not None and self.captured.takes(chunks):
            return self._drawn(
                chunks, range(len(chunks)), self.captured.logits(chunks), [()] * len(chunks)
            )
        if self.captured is not None and self.captured.takes_prompt(chunks):
            hidden_TD = self.captured.hidden(chunks[0])
        else:
            hidden_TD = self.model(
                *pack(chunks, self.page_tokens, self.caches, self.tables, self.device)
            )
        prompt_logprobs = self._prompt_logprobs(chunks, hidden_TD)
        ends = list(accumulate(len(c.tokens) for c in chunks))
        drawing = [i for i, c in enumerate(chunks) if c.draw is not None]
        last_R = torch.tensor([ends[i] - 1 for i in drawing], device=hidden_TD.device)
        logits_RV = self.model.logits(hidden_TD[last_R]) if drawing else None
        return self._drawn(chunks, drawing, logits_RV, prompt_logprobs)

    def _drawn(
        self,
        chunks: Sequence[Chunk],
        drawing: Sequence[int],
        logits_RV: Tensor | None,
        prompt_logprobs: Sequence[tuple[Logprob, ...]],
    ) -> StepResult:
        """logits_RV: of the chunks numbered `drawing`, which have a draw."""
        tokens: dict[int, int] = {}
        reports: dict[int, Logprob | None] = {}
        if logits_RV is not None and self.first:
            draws = [d for c in chunks if (d := c.draw) is not None]
            drawn = draw(logits_RV, draws, [chunks[i].end for i in drawing]).tolist()
            tokens = dict(zip(drawing, drawn, strict=True))
            wanted = [d.logprobs if t >= 0 else None for d, t in zip(draws, drawn, strict=True)]
            reports = dict(zip(drawing, logprobs(logits_RV, drawn, wanted), strict=True))
        return StepResult(
            tuple(
                ChunkResult(c.request, error="the model's logits are not finite")
                if tokens.get(i, 0) < 0
                else ChunkResult(c.request, tokens.get(i), reports.get(i), prompt_logprobs[i])
                for i, c in enumerate(chunks)
            )
        )

    def close(self) -> None:
        """Nothing to do: memory goes with the object."""

    def _prompt_logprobs(
        self, chunks: Sequence[Chunk], hidden_TD: Tensor
    ) -> list[tuple[Logprob, ...]]:
        found: list[tuple[Logprob, ...]] = []
        rows = logits_rows(self.model.config.vocabulary, self.model.dtype.itemsize)
        first = 0
        for chunk in chunks:
            row: list[Logprob] = []
            for start in range(0, len(chunk.targets), rows):
                targets = chunk.targets[start : start + rows]
                at = first + start
                logits_RV = self.model.logits(hidden_TD[at : at + len(targets)])
                if self.first:
                    wanted = [chunk.prompt_logprobs] * len(targets)
                    row += [r for r in logprobs(logits_RV, targets, wanted) if r is not None]
            found.append(tuple(row))
            first += len(chunk.tokens)
        return found
