"""Log-probabilities as answers have them. Knows token texts; not requests."""

from collections.abc import Sequence

from pieria.engine.plan import Logprob
from pieria.models.tokenizer import Tokenizer
from pieria.server.responses import PromptLogprob, PromptLogprobs, TokenLogprob, TopLogprob

LEAST_LOGPROB = -9999.0
"""What OpenAI reports for a token that is next to impossible; JSON has no infinity."""


def bounded(logprob: float) -> float:
    """Not below what JSON can say."""
    return max(logprob, LEAST_LOGPROB)


def bytes_of(token: int, tokenizer: Tokenizer) -> bytes:
    """What the token stands for; nothing for one that only the model has."""
    return tokenizer.token_bytes(token) if token < tokenizer.size else b""


def text_of(token: int, tokenizer: Tokenizer) -> str:
    """`bytes_of` as text."""
    return tokenizer.token_text(token) if token < tokenizer.size else ""


def token_logprob(one: Logprob, tokenizer: Tokenizer) -> TokenLogprob:
    """Chat's shape: a token, its bytes, and the most likely ones in its place."""
    return TokenLogprob(
        token=text_of(one.token, tokenizer),
        logprob=bounded(one.logprob),
        bytes=list(bytes_of(one.token, tokenizer)),
        top_logprobs=[
            TopLogprob(
                text_of(token, tokenizer), bounded(logprob), list(bytes_of(token, tokenizer))
            )
            for token, logprob in one.top
        ],
    )


def prompt_logprobs(logprobs: Sequence[Logprob | None], tokenizer: Tokenizer) -> PromptLogprobs:
    """vLLM's shape: per position an object of the token itself and its alternatives by token id."""
    shaped: PromptLogprobs = []
    for one in logprobs:
        if one is None:
            shaped.append(None)
            continue
        ranked = {one.token: (one.logprob, one.rank)}
        for rank, (token, logprob) in enumerate(one.top, start=1):
            ranked.setdefault(token, (logprob, rank))
        shaped.append(
            {
                str(token): PromptLogprob(bounded(logprob), rank, text_of(token, tokenizer))
                for token, (logprob, rank) in ranked.items()
            }
        )
    return shaped
