"""A model without mathematics: the next token is a hash of all that pages and states hold of it.

Each slot of a page holds a mark of its token and of all that the token sees: the marks of those
before it, in each page table as far back as its window, and the state before it. A draw reads what
its token sees through the page tables, and the state. So a wrong table, a missed write, a page let
go or reused too early and a state of other tokens change tokens. `alone` is the naive loop.
Torch-free.
"""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from zlib import crc32

from pieria.engine.messages import Add
from pieria.engine.plan import Chunk, ChunkResult, Draw, Logprob, StepPlan, StepResult

VOCABULARY = 12

Windows = tuple[int | None, ...]


class ToyRunner:
    """Keeps every plan it ran. fails: request id -> the error that its chunks end in.

    windows: how far back tokens look in each page table. states: how many there are, if it keeps
    one per request.
    """

    def __init__(
        self,
        pages: int,
        page_tokens: int,
        fails: Mapping[str, str] | None = None,
        windows: Windows = (None,),
        states: int = 0,
    ) -> None:
        self.page_tokens = page_tokens
        self.windows = windows
        self.fails = {} if fails is None else fails
        self.plans: list[StepPlan] = []
        self.closed = False
        self.slots = array("Q", [0] * pages * page_tokens)
        self.states = array("Q", [0] * states)

    def run(self, plan: StepPlan) -> StepResult:
        assert not self.closed
        self.plans.append(plan)
        left = [self._compute(chunk) for chunk in plan.chunks]
        return StepResult(tuple(map(self._result, plan.chunks, left)))

    def close(self) -> None:
        self.closed = True

    def visible(self, chunk: Chunk, asker: int, end: int) -> list[int]:
        """Where that lies which token `asker` sees of the tokens before `end`, in all tables."""
        return [
            self.slot(chunk, table, position)
            for table, window in enumerate(self.windows)
            for position in range(oldest(asker, window), end)
        ]

    def slot(self, chunk: Chunk, table: int, position: int) -> int:
        """Where the page table says that a token lies."""
        page, offset = divmod(position, self.page_tokens)
        assert chunk.tables[table][page] >= 0, f"page {page} of table {table} was let go"
        return chunk.tables[table][page] * self.page_tokens + offset

    def _compute(self, chunk: Chunk) -> list[int]:
        """Write what is remembered of the chunk's tokens; the states after each of them."""
        assert (chunk.writes >= 0) == (len(self.states) > 0)
        assert (chunk.reads >= 0) == (chunk.writes >= 0 and chunk.start > 0)
        state = self.states[chunk.reads] if chunk.reads >= 0 else 0
        states = []
        for position, token in enumerate(chunk.tokens, chunk.start):
            seen = [self.slots[s] for s in self.visible(chunk, position, position)]
            made = mark(token, seen, state)
            for table in range(len(self.windows)):
                self.slots[self.slot(chunk, table, position)] = made + table
            state = after(state, token) if self.states else 0
            states.append(state)
        if chunk.writes >= 0:
            self.states[chunk.writes] = state
        return states

    def _result(self, chunk: Chunk, states: Sequence[int]) -> ChunkResult:
        if chunk.request in self.fails:
            return ChunkResult(chunk.request, error=self.fails[chunk.request])
        token = logprob = None
        if chunk.draw is not None:
            state = self.states[chunk.writes] if chunk.writes >= 0 else 0
            known = [*self._seen(chunk, chunk.end - 1), state]
            token = draw_token(known, chunk.draw, chunk.end)
            if chunk.draw.logprobs is not None:
                logprob = report(known, token, chunk.draw.logprobs)
        prompt_logprobs = tuple(
            report([*self._seen(chunk, chunk.start + i), states[i]], t, chunk.prompt_logprobs or 0)
            for i, t in enumerate(chunk.targets)
        )
        return ChunkResult(chunk.request, token, logprob, prompt_logprobs)

    def _seen(self, chunk: Chunk, position: int) -> list[int]:
        """What a token sees, itself included."""
        return [self.slots[s] for s in self.visible(chunk, position, position + 1)]


class History:
    """What is remembered of a text that is read from its beginning."""

    def __init__(self, windows: Windows = (None,), stateful: bool = False) -> None:
        self.windows = windows
        self.stateful = stateful
        self.marks: list[int] = []
        self.states = [0]

    def read(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            seen = self.visible(len(self.marks), len(self.marks))
            self.marks.append(mark(token, seen, self.states[-1]))
            self.states.append(after(self.states[-1], token) if self.stateful else 0)

    def seen(self) -> list[int]:
        """What a draw after the last token depends on."""
        return [*self.visible(len(self.marks) - 1, len(self.marks)), self.states[-1]]

    def visible(self, asker: int, end: int) -> list[int]:
        """What token `asker` sees of the tokens before `end`, in all tables."""
        return [
            made + table
            for table, window in enumerate(self.windows)
            for made in self.marks[oldest(asker, window) : end]
        ]


@dataclass
class Story:
    """All the news of one request, one after the other."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[Logprob] = field(default_factory=list)
    prompt_logprobs: list[Logprob] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | None = None


def alone(
    add: Add, stop_ids: frozenset[int], windows: Windows = (None,), stateful: bool = False
) -> Story:
    """What a request gets when nobody else is there: no pages, no chunks, no cache."""
    p = add.params
    story = Story()
    history = History(windows, stateful)
    for token in add.tokens:
        if history.marks and p.prompt_logprobs is not None:
            story.prompt_logprobs.append(report(history.seen(), token, p.prompt_logprobs))
        history.read([token])
    stops = stop_ids | set(p.stop_token_ids or ())
    while story.finish_reason is None:
        drawn = len(story.tokens)
        looked_at = [*add.tokens] * (p.repetition_penalty != 1)
        if (p.presence_penalty, p.frequency_penalty, p.repetition_penalty) != (0, 0, 1):
            looked_at += story.tokens
        seen = list(dict.fromkeys(looked_at))
        draw = Draw(
            seed=add.seed,
            choice=add.choice,
            temperature=p.temperature,
            top_k=0 if p.top_k == -1 else p.top_k,
            top_p=p.top_p,
            min_p=p.min_p,
            presence_penalty=p.presence_penalty,
            frequency_penalty=p.frequency_penalty,
            repetition_penalty=p.repetition_penalty,
            seen=array("i", seen).tobytes(),
            times=array("i", map(story.tokens.count, seen)).tobytes(),
            bias=tuple(p.logit_bias.items()) if p.logit_bias else (),
            banned=tuple(sorted(stops)) if drawn < p.min_tokens else (),
            logprobs=p.logprobs,
        )
        token = draw_token(history.seen(), draw, len(add.tokens) + drawn)
        if p.logprobs is not None:
            story.logprobs.append(report(history.seen(), token, p.logprobs))
        history.read([token])
        story.tokens.append(token)
        if drawn + 1 >= p.min_tokens and token in (p.stop_token_ids or ()):
            story.finish_reason, story.stop_reason = "stop", token
        elif drawn + 1 >= p.min_tokens and token in stop_ids and not p.ignore_eos:
            story.finish_reason = "stop"
        elif drawn + 1 == add.max_tokens:
            story.finish_reason = "length"
    return story


def oldest(position: int, window: int | None) -> int:
    """The first token that the one at `position` sees."""
    return 0 if window is None else max(0, position - window + 1)


def mark(token: int, seen: Sequence[int], state: int) -> int:
    """Of a token, what it sees and the state before it; never 0, as in a slot never written."""
    return 1 + _hash([*seen, state], str(token))


def after(state: int, token: int) -> int:
    """The state after a token."""
    return (state * 6364136223846793005 + token * 1442695040888963407 + 1) % 2**64


def draw_token(seen: Sequence[int], draw: Draw, position: int) -> int:
    """Any of the tokens that are not banned; a change of `position` or of any field of `draw` may
    change it.
    """
    allowed = [token for token in range(VOCABULARY) if token not in draw.banned]
    return allowed[_hash(seen, f"{position} {draw}") % len(allowed)]


def report(seen: Sequence[int], token: int, alternatives: int) -> Logprob:
    """Something that stands for log-probabilities after what was seen."""
    numbers = [-(_hash(seen, str(t)) % 1000) / 100 for t in range(VOCABULARY)]
    order = sorted(range(VOCABULARY), key=lambda t: -numbers[t])
    top = tuple((t, numbers[t]) for t in order[:alternatives])
    return Logprob(token, numbers[token], order.index(token) + 1, top)


def _hash(seen: Sequence[int], more: str) -> int:
    return crc32(more.encode(), crc32(array("Q", seen).tobytes()))
