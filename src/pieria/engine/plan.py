"""One step of the engine as data: what the scheduler asks of a runner, and what it gets back.

A plan is complete: a runner keeps nothing about requests between steps but pages and states.
Plans and results hold only numbers, strings, bytes and tuples, so that they can be sent to other
ranks, and that the garbage collector need not visit them: a step makes hundreds. Torch-free.
"""

from typing import Protocol

import msgspec


class Draw(msgspec.Struct, frozen=True, gc=False):
    """How to draw the token that follows a chunk.

    The noise is keyed by (seed, choice, the index in its sequence of the token to draw, which is
    the chunk's end). seen, times: the tokens that penalties look at, each once, and how often each
    occurs in the output, as native int32; empty where no penalty is asked. bias: (token, added
    logit). banned: tokens that must not be drawn. logprobs: alternatives to report; None: no
    report.
    """

    seed: int
    choice: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seen: bytes = b""
    times: bytes = b""
    bias: tuple[tuple[int, float], ...] = ()
    banned: tuple[int, ...] = ()
    logprobs: int | None = None


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """Tokens [start, start + len(tokens)) of one request, to be computed in this step.

    tables: the request's pages in each page table, enough for every token up to the chunk's end;
    those that no token of the chunk sees may be -1. reads, writes: the state to go on from (-1: the
    beginning) and the one to leave, never the same, where the model keeps one per request; else -1.
    draw: present when the chunk reaches the end of what is known, so that the next token is wanted.
    targets, prompt_logprobs: the prompt tokens that follow each of `tokens`, where their
    log-probabilities are wanted, with this many alternatives; both empty when none are asked.
    """

    request: str
    start: int
    tokens: tuple[int, ...]
    tables: tuple[tuple[int, ...], ...]
    reads: int = -1
    writes: int = -1
    draw: Draw | None = None
    targets: tuple[int, ...] = ()
    prompt_logprobs: int | None = None

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)


class StepPlan(msgspec.Struct, frozen=True, gc=False):
    """What one forward pass computes; no request occurs twice."""

    chunks: tuple[Chunk, ...]

    @property
    def tokens(self) -> int:
        return sum(len(c.tokens) for c in self.chunks)


class Logprob(msgspec.Struct, frozen=True, gc=False):
    """One position's natural-log probabilities before temperature and penalties.

    token's own, its rank (1 is the most likely), and the most likely alternatives in order.
    """

    token: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...] = ()


class ChunkResult(msgspec.Struct, frozen=True, gc=False):
    """What came of one chunk: the token, if the plan had a `draw`; a Logprob for each target.

    error: why this request cannot go on; then nothing else counts.
    """

    request: str
    token: int | None = None
    logprob: Logprob | None = None
    prompt_logprobs: tuple[Logprob, ...] = ()
    error: str | None = None


class StepResult(msgspec.Struct, frozen=True, gc=False):
    """Results in the order of the plan's chunks."""

    chunks: tuple[ChunkResult, ...]


class Runner(Protocol):
    """Executes plans on a device, or predicts them."""

    def run(self, plan: StepPlan) -> StepResult:
        """Write the chunks' keys and values into their pages and draw the wanted tokens.

        Running the same plan again writes the same values and draws the same tokens.
        """

    def close(self) -> None:
        """Release the device. No call follows."""
