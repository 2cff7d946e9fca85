"""Tokens of a model that is not there: random ones, or pieces of a text; and when answers end.

Knows token ids and draws. Every token follows from its request's seed and place, so that a request
gets the same ones again.
"""

from collections import OrderedDict
from collections.abc import Sequence
from math import log

from pieria.engine.plan import Chunk, ChunkResult, Draw, Logprob

MOST_REQUESTS = 1 << 16
"""Whose beginnings are remembered."""

END_AGAIN = 64
"""Tokens after which an answer that may not end yet tries to end again."""


class Words:
    """What comes of chunks.

    tokens: to choose from; a text if `is_text`, else in no order. stop_ids: that end an answer, on
    average after `mean` tokens.
    """

    def __init__(
        self, tokens: Sequence[int], stop_ids: frozenset[int], mean: int, *, is_text: bool
    ) -> None:
        self.tokens = [token for token in tokens if token not in stop_ids]
        assert self.tokens
        self.stop = min(stop_ids, default=None)
        self.mean = mean
        self.is_text = is_text
        self._begun: OrderedDict[str, int] = OrderedDict()

    def __call__(self, chunk: Chunk) -> ChunkResult:
        """Log-probabilities that were asked for are made up."""
        token = logprob = None
        if chunk.draw is not None:
            token = self._token(chunk.request, chunk.draw, chunk.end)
            if chunk.draw.logprobs is not None:
                logprob = self._report(token, chunk.draw.logprobs)
        reports = tuple(self._report(t, chunk.prompt_logprobs or 0) for t in chunk.targets)
        return ChunkResult(chunk.request, token, logprob, reports)

    def _token(self, request: str, draw: Draw, position: int) -> int:
        begun = self._begun.setdefault(request, position)
        if len(self._begun) > MOST_REQUESTS:
            self._begun.popitem(last=False)
        made = position - begun
        if made >= 1 and self.stop is not None:
            over = made - self._length(draw)
            if over >= 0 and over % END_AGAIN == 0 and self.stop not in draw.banned:
                return self.stop
        if self.is_text:
            return self.tokens[(_mixed(draw.seed, draw.choice, 0) + made) % len(self.tokens)]
        return self.tokens[_mixed(draw.seed, draw.choice, position) % len(self.tokens)]

    def _length(self, draw: Draw) -> int:
        """Tokens of this answer: exponentially distributed."""
        share = (_mixed(draw.seed, draw.choice, -1) % 2**32 + 1) / 2**32
        return max(1, round(-self.mean * log(share)))

    def _report(self, token: int, alternatives: int) -> Logprob:
        others = tuple((self.tokens[i], -1.0 - i) for i in range(min(alternatives, 20)))
        return Logprob(token, -1.0, 1, others[:alternatives])


def _mixed(seed: int, choice: int, place: int) -> int:
    """A number that looks random (splitmix64)."""
    x = (seed + choice * 0x9E3779B97F4A7C15 + place * 0xBF58476D1CE4E5B9) % 2**64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31
