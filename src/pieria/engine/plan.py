"""One step of the engine as data: what the scheduler asks of a runner, and what it gets back.

A plan is complete: a runner keeps nothing about requests between steps but the pages themselves.
Plans and results hold only numbers, strings and tuples, so that they can be sent to other ranks.
Torch-free.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Draw:
    """How to draw the token that follows a chunk.

    The noise is keyed by (seed, choice, position); position is the index in its sequence of the
    token to draw. prompt and output are the tokens that penalties look at, empty where none is
    asked. bias: (token, added logit). banned: tokens that must not be drawn. logprobs: alternatives
    to report; None: no report.
    """

    position: int
    seed: int
    choice: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    prompt: tuple[int, ...] = ()
    output: tuple[int, ...] = ()
    bias: tuple[tuple[int, float], ...] = ()
    banned: tuple[int, ...] = ()
    logprobs: int | None = None


@dataclass(frozen=True)
class Chunk:
    """Tokens [start, start + len(tokens)) of one request, to be computed in this step.

    pages: where the request's keys and values lie, enough for every token up to the chunk's end.
    draw: present when the chunk reaches the end of what is known, so that the next token is wanted.
    targets, prompt_logprobs: the prompt tokens that follow each of `tokens`, where their
    log-probabilities are wanted, with this many alternatives; both empty when none are asked.
    """

    request: str
    start: int
    tokens: tuple[int, ...]
    pages: tuple[int, ...]
    draw: Draw | None = None
    targets: tuple[int, ...] = ()
    prompt_logprobs: int | None = None

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)


@dataclass(frozen=True)
class StepPlan:
    """What one forward pass computes; no request occurs twice."""

    chunks: tuple[Chunk, ...]

    @property
    def tokens(self) -> int:
        return sum(len(c.tokens) for c in self.chunks)


@dataclass(frozen=True)
class Logprob:
    """One position's natural-log probabilities before temperature and penalties.

    token's own, its rank (1 is the most likely), and the most likely alternatives in order.
    """

    token: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class ChunkResult:
    """What came of one chunk: the token, if the plan had a `draw`; a Logprob for each target.

    error: why this request cannot go on; then nothing else counts.
    """

    request: str
    token: int | None = None
    logprob: Logprob | None = None
    prompt_logprobs: tuple[Logprob, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class StepResult:
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
