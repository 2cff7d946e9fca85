"""A model without mathematics: the next token is a hash of all before it, as the pages hold it.

Each slot of a page holds a digest of its token and of the digest in the slot before, as keys and
values hold what a token saw. A draw reads all slots through the page table, so a wrong table, a
missed write or a page reused too early changes tokens. `alone` is the naive loop. Torch-free.
"""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from zlib import crc32

from pieria.engine.messages import Add
from pieria.engine.plan import Chunk, ChunkResult, Draw, Logprob, StepPlan, StepResult

VOCABULARY = 12


class ToyRunner:
    """Keeps every plan it ran. fails: request id -> the error that its chunks end in."""

    def __init__(
        self, pages: int, page_tokens: int, fails: Mapping[str, str] | None = None
    ) -> None:
        self.page_tokens = page_tokens
        self.fails = {} if fails is None else fails
        self.plans: list[StepPlan] = []
        self.closed = False
        self._slots = array("Q", [0] * pages * page_tokens)

    def run(self, plan: StepPlan) -> StepResult:
        assert not self.closed
        self.plans.append(plan)
        for chunk in plan.chunks:
            for position, token in enumerate(chunk.tokens, chunk.start):
                before = self._slots[self.slot(chunk, position - 1)] if position else 0
                self._slots[self.slot(chunk, position)] = digest(before, token)
        return StepResult(tuple(self._result(chunk) for chunk in plan.chunks))

    def close(self) -> None:
        self.closed = True

    def slot(self, chunk: Chunk, position: int) -> int:
        """Where the page table says that a token lies."""
        page, offset = divmod(position, self.page_tokens)
        return chunk.pages[page] * self.page_tokens + offset

    def _result(self, chunk: Chunk) -> ChunkResult:
        if chunk.request in self.fails:
            return ChunkResult(chunk.request, error=self.fails[chunk.request])
        seen = [self._slots[self.slot(chunk, p)] for p in range(chunk.end)]
        token = logprob = None
        if chunk.draw is not None:
            token = draw_token(seen, chunk.draw)
            if chunk.draw.logprobs is not None:
                logprob = report(seen, token, chunk.draw.logprobs)
        prompt_logprobs = tuple(
            report(seen[: position + 1], target, chunk.prompt_logprobs or 0)
            for position, target in enumerate(chunk.targets, chunk.start)
        )
        return ChunkResult(chunk.request, token, logprob, prompt_logprobs)


@dataclass
class Story:
    """All the news of one request, one after the other."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[Logprob] = field(default_factory=list)
    prompt_logprobs: list[Logprob] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | None = None


def alone(add: Add, stop_ids: frozenset[int]) -> Story:
    """What a request gets when nobody else is there: no pages, no chunks, no cache."""
    p = add.params
    story = Story()
    seen: list[int] = []
    for token in add.tokens:
        if seen and p.prompt_logprobs is not None:
            story.prompt_logprobs.append(report(seen, token, p.prompt_logprobs))
        seen.append(digest(seen[-1] if seen else 0, token))
    stops = stop_ids | set(p.stop_token_ids or ())
    looks_back = (p.presence_penalty, p.frequency_penalty, p.repetition_penalty) != (0, 0, 1)
    while story.finish_reason is None:
        drawn = len(story.tokens)
        draw = Draw(
            position=len(add.tokens) + drawn,
            seed=add.seed,
            choice=add.choice,
            temperature=p.temperature,
            top_k=0 if p.top_k == -1 else p.top_k,
            top_p=p.top_p,
            min_p=p.min_p,
            presence_penalty=p.presence_penalty,
            frequency_penalty=p.frequency_penalty,
            repetition_penalty=p.repetition_penalty,
            prompt=add.tokens if looks_back else (),
            output=tuple(story.tokens) if looks_back else (),
            bias=tuple(p.logit_bias.items()) if p.logit_bias else (),
            banned=tuple(sorted(stops)) if drawn < p.min_tokens else (),
            logprobs=p.logprobs,
        )
        token = draw_token(seen, draw)
        if p.logprobs is not None:
            story.logprobs.append(report(seen, token, p.logprobs))
        seen.append(digest(seen[-1], token))
        story.tokens.append(token)
        if drawn + 1 >= p.min_tokens and token in (p.stop_token_ids or ()):
            story.finish_reason, story.stop_reason = "stop", token
        elif drawn + 1 >= p.min_tokens and token in stop_ids and not p.ignore_eos:
            story.finish_reason = "stop"
        elif drawn + 1 == add.max_tokens:
            story.finish_reason = "length"
    return story


def digest(before: int, token: int) -> int:
    """Of a token and all before it; never 0, which an unwritten slot holds."""
    return (before * 6364136223846793005 + token * 1442695040888963407 + 1) % 2**64 or 1


def draw_token(seen: Sequence[int], draw: Draw) -> int:
    """Any of the tokens that are not banned; a change of any field of `draw` may change it."""
    allowed = [token for token in range(VOCABULARY) if token not in draw.banned]
    return allowed[_hash(seen, repr(draw)) % len(allowed)]


def report(seen: Sequence[int], token: int, alternatives: int) -> Logprob:
    """Something that stands for log-probabilities after what was seen."""
    numbers = [-(_hash(seen, str(t)) % 1000) / 100 for t in range(VOCABULARY)]
    order = sorted(range(VOCABULARY), key=lambda t: -numbers[t])
    top = tuple((t, numbers[t]) for t in order[:alternatives])
    return Logprob(token, numbers[token], order.index(token) + 1, top)


def _hash(seen: Sequence[int], more: str) -> int:
    return crc32(more.encode(), crc32(array("Q", seen).tobytes()))
