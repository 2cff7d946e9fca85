"""The tokenizer.ggml.* keys of a GGUF file to a tokenizer of the `tokenizers` library. Torch-free.

Source: llama-vocab.cpp of llama.cpp, for what the keys mean and what holds where one is missing.
Does not know how the library's tokenizer is used.
"""

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tokenizers

from pieria.models import vocabularies
from pieria.models.keys import Keys
from pieria.models.pre_tokenizers import PRE_TOKENIZERS
from pieria.models.vocabularies import MARK, NORMAL, Spaces, Vocabulary

PREFIX = "tokenizer.ggml."

PHI3_PLAIN = ("<unk>", "<s>", "<|endoftext|>")
"""The added tokens of Phi-3 that do not take the spaces behind them; no key tells."""


@dataclass(frozen=True)
class GgufVocabulary:
    """add_bos, add_eos: whether these are put around a text."""

    backend: tokenizers.Tokenizer
    bos: int | None
    eos: int | None
    add_bos: bool
    add_eos: bool


def read_vocabulary(metadata: Mapping[str, Any]) -> GgufVocabulary:
    """ValueError for what is missing, unsound or not supported."""
    values = {k.removeprefix(PREFIX): v for k, v in metadata.items() if k.startswith(PREFIX)}
    keys = Keys(values, PREFIX.rstrip("."))
    read = keys.choice("model", MODELS)
    phi3 = metadata.get("general.architecture") == "phi3"
    vocabulary = _vocabulary(keys, PHI3_PLAIN if phi3 else None)
    made: GgufVocabulary = read(keys, vocabulary)
    vocabulary.add_to(made.backend)
    return made


def _byte_pairs(keys: Keys, vocabulary: Vocabulary) -> GgufVocabulary:
    default = keys.values["model"] if keys.values["model"] in PRE_TOKENIZERS else "default"
    pre = keys.choice("pre", PRE_TOKENIZERS, default)
    make = vocabularies.marked_bpe if pre.marked else vocabularies.byte_level_bpe
    backend = make(vocabulary, _texts(keys, "merges"), pre)
    return _around(keys, backend, add_bos=pre.add_bos)


def _scored(keys: Keys, vocabulary: Vocabulary) -> GgufVocabulary:
    spaces = Spaces(before_text=keys.flag("add_space_prefix", True))
    backend = vocabularies.scored_bpe(vocabulary, _scores(keys, vocabulary), spaces)
    return _around(keys, backend, bos=1, eos=2, add_bos=True)


def _unigram(keys: Keys, vocabulary: Vocabulary) -> GgufVocabulary:
    charsmap = keys.values.get("precompiled_charsmap", array("B"))
    if not isinstance(charsmap, array) or charsmap.typecode not in "bB":
        raise ValueError(f"{keys.source}: precompiled_charsmap must be an array of bytes")
    spaces = Spaces(
        before_text=keys.flag("add_space_prefix", False),
        collapse=keys.flag("remove_extra_whitespaces", False),
        charsmap=charsmap.tobytes(),
    )
    unknown = _unknown(keys, vocabulary, 2)
    backend = vocabularies.unigram(vocabulary, _scores(keys, vocabulary), spaces, unknown)
    return _around(keys, backend, eos=1, add_eos=True)


def _word_pieces(keys: Keys, vocabulary: Vocabulary) -> GgufVocabulary:
    """Files mark the tokens that begin a word; the library, those that do not."""
    words = Vocabulary([_unmarked(token) for token in vocabulary.tokens], vocabulary.types)
    unknown = _unknown(keys, words, 100)
    lowercase = keys.flag("normalizer.lowercase", True)
    strip_accents = keys.flag("normalizer.strip_accents", lowercase)
    backend = vocabularies.word_piece(words, words.tokens[unknown], lowercase, strip_accents)
    return GgufVocabulary(
        backend,
        bos=keys.integer("bos_token_id", 101, 0),
        eos=keys.integer("seperator_token_id", 102, 0),
        add_bos=keys.flag("add_bos_token", True),
        add_eos=True,
    )


MODELS: Mapping[str, Callable[[Keys, Vocabulary], GgufVocabulary]] = {
    "gpt2": _byte_pairs,
    "gemma4": _byte_pairs,
    "whitespace": _byte_pairs,
    "llama": _scored,
    "t5": _unigram,
    "bert": _word_pieces,
}
"""tokenizer.ggml.model -> what reads it."""


def _unmarked(token: str) -> str:
    if token.startswith(MARK):
        return token.removeprefix(MARK)
    return token if token.startswith("[") and token.endswith("]") else "##" + token


def _vocabulary(keys: Keys, plain: Sequence[str] | None) -> Vocabulary:
    """plain: if given, the tokens that leave the spaces behind them; all others take them."""
    tokens = [text or f"[EMPTY_{id}]" for id, text in enumerate(_texts(keys, "tokens"))]
    types = keys.values.get("token_type", array("i", [NORMAL]) * len(tokens))
    if not isinstance(types, array):
        raise ValueError(f"{keys.source}: token_type must be an array of numbers")
    strip_after = frozenset[str]() if plain is None else frozenset(tokens).difference(plain)
    return Vocabulary(tokens, types, strip_after)


def _texts(keys: Keys, key: str) -> list[str]:
    found = keys.values.get(key)
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise ValueError(f"{keys.source}: {key} must be an array of strings")
    return found


def _unknown(keys: Keys, vocabulary: Vocabulary, default: int) -> int:
    id = keys.integer("unknown_token_id", default, 0)
    if id >= len(vocabulary.tokens):
        raise ValueError(f"{keys.source}: unknown_token_id={id} is not in the vocabulary")
    return id


def _scores(keys: Keys, vocabulary: Vocabulary) -> Sequence[float]:
    scores = keys.values.get("scores")
    if not isinstance(scores, array) or len(scores) != len(vocabulary.tokens):
        raise ValueError(f"{keys.source}: scores must have {len(vocabulary.tokens)} numbers")
    return scores


def _around(
    keys: Keys,
    backend: tokenizers.Tokenizer,
    bos: int | None = None,
    eos: int | None = None,
    add_bos: bool = False,
    add_eos: bool = False,
) -> GgufVocabulary:
    """With what the keys say, else these."""

    def id(key: str, default: int | None) -> int | None:
        said = keys.has(key) or default is not None
        return keys.integer(key, default, 0) if said else None

    return GgufVocabulary(
        backend,
        bos=id("bos_token_id", bos),
        eos=id("eos_token_id", eos),
        add_bos=keys.flag("add_bos_token", add_bos),
        add_eos=keys.flag("add_eos_token", add_eos),
    )
