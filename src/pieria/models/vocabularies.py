"""Vocabularies to tokenizers of the `tokenizers` library, one function for each way to encode.

Knows algorithms. Does not know what files vocabularies come in, or how their keys are called. What
the functions return does not yet find the tokens of `Vocabulary.add_to` in text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, TypeVar

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from pieria.models.pre_tokenizers import PreTokenizer

T = TypeVar("T")

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Types of tokens, as GGUF and SentencePiece number them."""

MARK = "\u2581"
"""SentencePiece's stand-in for a space."""

MAX_PIECE = 512
"""Characters of a token that pairs can be merged to; finding its pairs takes their square."""

UNLIKELY = 1000.0
"""How much lower than the lowest score others are that text is not to be cut into."""


def guarded(what: str, call: Callable[..., T], *args: Any, **options: Any) -> T:
    """What the library's function returns.

    ValueError for its errors, and for Rust's panics, which are no `Exception` and would end more
    than the request.
    """
    try:
        return call(*args, **options)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise ValueError(f"{what}: {error}") from None


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id, and the types of all. ValueError unless both are sound.

    UNKNOWN, CONTROL and USER_DEFINED tokens are found in text as they stand, before all else; the
    first two are special. strip_after: those that swallow the spaces behind them.
    """

    tokens: Sequence[str]
    types: Sequence[int]
    strip_after: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if len(self.types) != len(self.tokens):
            raise ValueError(f"there are {len(self.tokens)} tokens and {len(self.types)} types")
        ids = self.ids()
        if len(ids) < len(self.tokens):
            twice = next(token for id, token in enumerate(self.tokens) if ids[token] != id)
            raise ValueError(f"the token {twice!r} occurs twice")

    def ids(self) -> dict[str, int]:
        return {token: id for id, token in enumerate(self.tokens)}

    def first(self, kind: int) -> int | None:
        """The id of the first token of a type."""
        return next((id for id, type in enumerate(self.types) if type == kind), None)

    def add_to(self, backend: tokenizers.Tokenizer) -> None:
        backend.add_tokens(
            [
                AddedToken(
                    token,
                    special=kind != USER_DEFINED,
                    normalized=False,
                    rstrip=token in self.strip_after,
                )
                for token, kind in zip(self.tokens, self.types, strict=True)
                if kind in (UNKNOWN, CONTROL, USER_DEFINED) and token
            ]
        )


@dataclass(frozen=True)
class Spaces:
    """What SentencePiece does to text first. charsmap: its compiled table of characters.

    before_text: a space is put before text, and before what follows a token found as it stands.
    collapse: of successive spaces one is left, at either end none.
    """

    before_text: bool = False
    collapse: bool = False
    charsmap: bytes = b""


def byte_level_bpe(
    vocabulary: Vocabulary, merges: Sequence[str], pre: PreTokenizer
) -> tokenizers.Tokenizer:
    """As GPT-2: pieces as `pre` cuts them, their bytes, then pairs in the order of `merges`."""
    model = _bpe(vocabulary, _pairs(vocabulary, merges), ignore_merges=pre.whole_words)
    backend = tokenizers.Tokenizer(model)
    if pre.nfc:
        backend.normalizer = normalizers.NFC()
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*_cuts(pre), to_bytes])
    backend.decoder = decoders.ByteLevel()
    return backend


def marked_bpe(
    vocabulary: Vocabulary, merges: Sequence[str], pre: PreTokenizer
) -> tokenizers.Tokenizer:
    """As Gemma 4: characters, with marks for spaces, then pairs in the order of `merges`."""
    backend = _marked(_bpe(vocabulary, _pairs(vocabulary, merges), byte_fallback=True), Spaces())
    backend.pre_tokenizer = pre_tokenizers.Sequence(_cuts(pre))
    return backend


def scored_bpe(
    vocabulary: Vocabulary, scores: Sequence[float], spaces: Spaces
) -> tokenizers.Tokenizer:
    """As SentencePiece: of all pairs that make a token the one with the best score, then the first.

    The library merges by rank, and a token has a rank for each of its pairs. Where scores are equal
    the pair with the longer left part comes first, so that runs grow from the left as they should.
    Other tokens that are worth the same, which no training makes, may be merged in another order.
    """
    _check(scores)
    usable = {
        token: id
        for id, token in enumerate(vocabulary.tokens)
        if vocabulary.types[id] in (NORMAL, UNUSED)
    }
    ranked = []
    for token, id in usable.items():
        if len(token) > MAX_PIECE:
            raise ValueError(f"the token {token[:20]!r}... has more than {MAX_PIECE} characters")
        for i in range(1, len(token)):
            if token[:i] in usable and token[i:] in usable:
                ranked.append((-scores[id], -i, token[:i], token[i:]))
    ranked.sort()
    pairs = [(left, right) for _, _, left, right in ranked]
    unknown = vocabulary.first(UNKNOWN)
    options = {} if unknown is None else {"unk_token": vocabulary.tokens[unknown]}
    model = _bpe(vocabulary, pairs, byte_fallback=True, fuse_unk=True, **options)
    return _marked(model, spaces)


def unigram(
    vocabulary: Vocabulary, scores: Sequence[float], spaces: Spaces, unknown: int
) -> tokenizers.Tokenizer:
    """As SentencePiece: the pieces with the best sum of scores. unknown: the id for all else."""
    _check(scores)
    normal = [s for s, kind in zip(scores, vocabulary.types, strict=True) if kind == NORMAL]
    lowest = min(normal, default=0.0) - UNLIKELY
    pieces = [
        (token, score if kind == NORMAL else lowest)
        for token, kind, score in zip(vocabulary.tokens, vocabulary.types, scores, strict=True)
    ]
    bytes_too = vocabulary.first(BYTE) is not None
    model = guarded("the vocabulary", models.Unigram, pieces, unknown, bytes_too)
    return _marked(model, spaces)


def word_piece(
    vocabulary: Vocabulary, unknown: str, lowercase: bool, strip_accents: bool
) -> tokenizers.Tokenizer:
    """As BERT: words, then the longest tokens from the left; ##x continues a word."""
    model = guarded("the vocabulary", models.WordPiece, vocabulary.ids(), unk_token=unknown)
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.BertNormalizer(
        lowercase=lowercase, strip_accents=strip_accents
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return backend


def _check(scores: Sequence[float]) -> None:
    if not all(map(isfinite, scores)):
        raise ValueError("the scores must be finite")


def _pairs(vocabulary: Vocabulary, merges: Sequence[str]) -> list[tuple[str, str]]:
    known = set(vocabulary.tokens)
    pairs = []
    for merge in merges:
        left, _, right = merge.partition(" ")
        if left not in known or right not in known or left + right not in known:
            raise ValueError(f"the merge {merge!r} is not of two tokens that make a third")
        pairs.append((left, right))
    return pairs


def _bpe(vocabulary: Vocabulary, pairs: Sequence[tuple[str, str]], **options: Any) -> models.BPE:
    ids = vocabulary.ids()
    return guarded("the merges", models.BPE, vocab=ids, merges=pairs, **options)


def _cuts(pre: PreTokenizer) -> list[Any]:
    behavior = "removed" if pre.drops else "isolated"
    return [pre_tokenizers.Split(Regex(pattern), behavior) for pattern in pre.patterns]


def _marked(model: Any, spaces: Spaces) -> tokenizers.Tokenizer:
    """With SentencePiece's treatment of spaces, there and back."""
    backend = tokenizers.Tokenizer(model)
    steps: list[Any] = []
    if spaces.charsmap:
        table = guarded("the table of characters", normalizers.Precompiled, spaces.charsmap)
        steps.append(table)
    if spaces.collapse:
        steps.append(normalizers.Replace(Regex(r"\A +| +\z"), ""))
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
    if spaces.before_text:
        steps.append(normalizers.Prepend(MARK))
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", MARK)])
    back = [decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
    strip = [decoders.Strip(" ", 1, 0)] if spaces.before_text else []
    backend.decoder = decoders.Sequence([*back, *strip])
    return backend
