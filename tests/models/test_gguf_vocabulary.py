"""tokenizer.ggml.* keys of every kind: what they mean, what holds without them, what is refused."""

import re
from array import array
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pieria.models.gguf_vocabulary import MODELS
from pieria.models.pre_tokenizers import PRE_TOKENIZERS
from pieria.models.tokenizer import Tokenizer
from tests.models.gguf_keys import BYTES, gguf_keys


def made(pre: str | None = "gpt-2", **changes: Any) -> Tokenizer:
    return Tokenizer.from_gguf(gguf_keys(pre, **changes), "model.gguf")


def of(model: str, tokens: Sequence[str], types: str, **changes: Any) -> Tokenizer:
    """types: a digit for each token."""
    plain = {"merges": None, "bos_token_id": None, "eos_token_id": None}
    kinds = array("i", map(int, types))
    return made(None, model=model, tokens=list(tokens), token_type=kinds, **{**plain, **changes})


# Byte-level BPE

GPT2, LLAMA3, QWEN2 = made("gpt-2"), made("llama-bpe"), made("qwen2")


def test_every_name_makes_one() -> None:
    for name in PRE_TOKENIZERS:
        if not PRE_TOKENIZERS[name].marked:
            assert made(name).decode(made(name).encode("Ab 12!\n", False)) == "Ab 12!\n"


def test_without_a_name() -> None:
    text = "It's $5 12345"
    assert made(None).encode(text) == made("default").encode(text)


def test_normal_forms() -> None:
    assert QWEN2.encode("e\u0301") == QWEN2.encode("\u00e9")
    assert LLAMA3.encode("e\u0301", False) != LLAMA3.encode("\u00e9", False)


def test_whole_words_come_before_merges() -> None:
    """llama-bpe takes a piece that is a token as it is, although no merge makes it."""
    changes = {"tokens": [*BYTES, "cat"], "token_type": None, "bos_token_id": None}
    assert made("llama-bpe", **changes, eos_token_id=None).encode("cat") == [256]
    assert len(made("gpt-2", **changes, eos_token_id=None).encode("cat")) == 3


def test_tokens_around_a_text() -> None:
    a = GPT2.encode("a")
    assert LLAMA3.encode("a") == [256, *a]
    assert LLAMA3.encode("a", add_special_tokens=False) == a
    assert made("llama-bpe", add_bos_token=False).encode("a") == a
    both = made("gpt-2", add_bos_token=True, add_eos_token=True)
    assert both.encode("a") == [256, *a, 257]
    assert both.encode("<s>a", add_special_tokens=False) == [256, *a]


def test_added_tokens() -> None:
    assert GPT2.special_ids == {256, 257}
    assert GPT2.encode("a  x") == [*GPT2.encode("a"), 258]
    assert GPT2.token_bytes(258) == b"  x"
    assert GPT2.decode([258, 256]) == "  x"
    assert GPT2.decode([258, 256], skip_special_tokens=False) == "  x<s>"
    assert [GPT2.token_bytes(id) for id in GPT2.encode("é")] == [b"\xc3", b"\xa9"]


def test_an_empty_token_has_a_name() -> None:
    assert made("gpt-2", tokens=[*BYTES, "", "</s>", ""]).token_text(258) == "[EMPTY_258]"


# BPE on characters, with marks for spaces

SIXTEEN = [f"<0x{byte:02X}>" for byte in range(256)]
MARKED = ["<s>", *SIXTEEN, "▁", "a", "b", "▁a", "\n", "\n\n", "<x>"]


def test_marked_bpe() -> None:
    merges = ["▁ a", "\n \n"]
    tokenizer = of("gemma4", MARKED, "3" + "6" * 256 + "1" * 6 + "4", merges=merges, bos_token_id=0)
    ids = tokenizer.encode(" a b\n\n é<x>a")
    bytes_of_e = [1 + byte for byte in "é".encode()]
    assert ids == [0, 260, 257, 259, 262, 257, *bytes_of_e, 263, 258]
    assert tokenizer.decode(ids) == " a b\n\n é<x>a"


def test_whitespace() -> None:
    tokenizer = of("whitespace", ["a", "b", "ab", "你"], "1111", merges=["a b"])
    assert tokenizer.encode(" ab\n你 b ") == [2, 3, 1]


# SentencePiece

PIECES = ["<unk>", "<s>", "</s>", *SIXTEEN, "▁", "a", "b", "▁a", "ab", "▁ab", "<x>"]
TYPES = "233" + "6" * 256 + "1" * 6 + "4"
SCORES = array("f", [0.0] * 259 + [-9.0, -9.0, -9.0, -2.0, -1.0, -3.0, 0.0])
A, B, MARK, MARK_A, AB, MARK_AB, X = 260, 261, 259, 262, 263, 264, 265


def test_scores_decide() -> None:
    tokenizer = of("llama", PIECES, TYPES, scores=SCORES)
    assert (tokenizer.bos, tokenizer.eos) == (1, 2)
    assert tokenizer.encode("ab a") == [1, MARK_AB, MARK_A]
    assert tokenizer.encode("aab") == [1, MARK_A, AB]
    pieces = [*PIECES[:264], "zz", "<x>"]
    assert of("llama", pieces, TYPES, scores=SCORES).encode("ab", False) == [MARK, AB]
    worse = array("f", [*SCORES[:263], -4.0, *SCORES[264:]])
    assert of("llama", pieces, TYPES, scores=worse).encode("ab", False) == [MARK_A, B]


def test_spaces_before_text() -> None:
    """Also before what follows a token found as it stands, as llama.cpp has it."""
    tokenizer = of("llama", PIECES, TYPES, scores=SCORES)
    assert tokenizer.encode(" a</s>b<x>b", False) == [MARK, MARK_A, 2, MARK, B, X, MARK, B]
    assert tokenizer.encode("", False) == []
    assert tokenizer.decode([MARK_A, MARK_A]) == "a a"
    without = of("llama", PIECES, TYPES, scores=SCORES, add_space_prefix=False, add_bos_token=False)
    assert without.encode("b a<x>b") == [B, MARK_A, X, B]
    assert without.decode([MARK_A, MARK_A]) == " a a"


def test_bytes_stand_for_what_has_no_token() -> None:
    tokenizer = of("llama", PIECES, TYPES, scores=SCORES)
    ids = tokenizer.encode("é\n", False)
    assert ids == [MARK, 3 + 0xC3, 3 + 0xA9, 3 + 0x0A]
    assert tokenizer.decode(ids) == "é\n"
    assert tokenizer.encode("<0x0A>", False)[1:] == [3 + ord(c) for c in "<0x0A>"]
    no_bytes = of("llama", ["<unk>", "<s>", "</s>", "▁", "a"], "23311", scores=array("f", [0] * 5))
    assert no_bytes.encode("aéé", False) == [3, 4, 0]


def test_a_bytes_name_in_text_is_not_the_byte() -> None:
    """Although there are tokens that could be merged to it."""
    parts = [*"<0xA>", "<0", "<0x", "<0x0", "<0x0A"]
    scores = array("f", [*SCORES, *[-1.0] * len(parts)])
    tokenizer = of("llama", [*PIECES, *parts], TYPES + "1" * len(parts), scores=scores)
    last = len(PIECES) + len(parts) - 1
    assert tokenizer.encode("<0x0A>", False) == [MARK, last, len(PIECES) + parts.index(">")]


def test_phi3_takes_the_spaces_behind_its_tokens() -> None:
    changes = {"model": "llama", "tokens": PIECES, "scores": SCORES, "bos_token_id": None}
    keys = gguf_keys(None, **changes, eos_token_id=None, token_type=array("i", map(int, TYPES)))
    plain = Tokenizer.from_gguf(keys, "x")
    phi3 = Tokenizer.from_gguf({**keys, "general.architecture": "phi3"}, "x")
    assert plain.encode("</s> \n a", False) == [2, MARK, MARK, 3 + 10, MARK_A]
    assert phi3.encode("</s> \n a", False) == [2, MARK_A]
    assert phi3.encode("<s> a", False) == [1, MARK, MARK_A]


UNIGRAMS = ["<pad>", "</s>", "<unk>", "▁", "a", "▁a", "ab", "b", "bab"]


def test_unigram() -> None:
    scores = array("f", [0, 0, 0, -3, -4, -5, -5, -4, -1])
    keys = {"scores": scores, "add_space_prefix": True, "remove_extra_whitespaces": True}
    tokenizer = of("t5", UNIGRAMS, "332111115", **keys)
    assert tokenizer.encode("  a   ab ") == [5, 3, 6, 1]
    assert tokenizer.encode("éé", False) == [3, 2]
    assert tokenizer.encode("bab", False) == [3, 7, 6]  # and not what is marked as unused
    assert tokenizer.decode([5, 3, 6]) == "a ab"


# WordPiece

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁ab", "c", "▁é", "▁e", "▁!", "▁AB"]


def test_word_pieces() -> None:
    keys = {"unknown_token_id": 1, "bos_token_id": 2, "seperator_token_id": 3}
    tokenizer = of("bert", WORDS, "3233111111", **keys)
    assert tokenizer.encode("ABc É!") == [2, 4, 5, 7, 8, 3]
    assert tokenizer.encode("[SEP]abx", False) == [3, 1]
    assert tokenizer.decode([4, 5, 7, 8]) == "abc e !"
    cased = {"normalizer.lowercase": False}
    assert of("bert", WORDS, "3233111111", **keys, **cased).encode("AB é", False) == [9, 6]


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "rwkv"}, "tokenizer.ggml: model='rwkv' is not supported; there are: gpt2, "),
        ({"model": ["a"]}, "tokenizer.ggml: model=['a'] is not supported; there are: gpt2, "),
        ({"model": None}, "tokenizer.ggml: model is missing"),
        ({"pre": "new"}, "tokenizer.ggml: pre='new' is not supported; there are: default, gpt-2"),
        ({"pre": ["a"]}, "tokenizer.ggml: pre=['a'] is not supported"),
        ({"tokens": None}, "tokenizer.ggml: tokens must be an array of strings"),
        ({"tokens": [["a"]]}, "tokenizer.ggml: tokens must be an array of strings"),
        ({"merges": None}, "tokenizer.ggml: merges must be an array of strings"),
        ({"tokens": ["a", "b", "a"], "token_type": None}, "the token 'a' occurs twice"),
        ({"token_type": array("i", [1])}, "there are 259 tokens and 1 types"),
        ({"token_type": [""] * 259}, "tokenizer.ggml: token_type must be an array of numbers"),
        ({"merges": ["ab"]}, "the merge 'ab' is not of two tokens that make a third"),
        ({"merges": [" b"]}, "the merge ' b' is not of two tokens"),
        ({"merges": ["a b c"]}, "the merge 'a b c' is not of two tokens"),
        ({"merges": ["a b"]}, "the merge 'a b' is not of two tokens"),
        ({"eos_token_id": 259}, "special token id 259 must be from 0 to 258"),
        ({"bos_token_id": "1"}, "tokenizer.ggml: bos_token_id='1' must be a positive integer or 0"),
        ({"add_bos_token": 1}, "tokenizer.ggml: add_bos_token=1 must be true or false"),
        ({"model": "llama"}, "tokenizer.ggml: scores must have 259 numbers"),
        ({"model": "llama", "scores": array("f", [0])}, "scores must have 259 numbers"),
        (
            {"model": "llama", "scores": array("f", [float("nan")] * 259)},
            "the scores must be finite",
        ),
        ({"model": "t5", "scores": array("f", [float("inf")] * 259)}, "the scores must be finite"),
        (
            {
                "model": "llama",
                "scores": array("f", [0] * 257),
                "tokens": [*BYTES, "a" * 999],
                "token_type": None,
            },
            "the token 'aaaaaaaaaaaaaaaaaaaa'... has more than 512 characters",
        ),
        ({"model": "t5", "precompiled_charsmap": "x"}, "precompiled_charsmap must be an array of"),
        (
            {
                "model": "t5",
                "precompiled_charsmap": array("B", b"xyz"),
                "scores": array("f", [0] * 259),
            },
            "the table of characters: ",
        ),
        ({"model": "bert", "unknown_token_id": 259}, "unknown_token_id=259 is not in the vocabul"),
    ],
)
def test_a_vocabulary_that_is_not_sound(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        made(**{"pre": "gpt-2", **changes})
    assert str(caught.value).startswith("model.gguf: ")


# Whatever a file says

NUMBERS = st.integers(-5, 300) | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.booleans()
ARRAYS = (
    st.lists(st.floats(width=32), max_size=8).map(lambda v: array("f", v))
    | st.lists(st.integers(-3, 9), max_size=8).map(lambda v: array("i", v))
    | st.binary(max_size=40).map(lambda v: array("B", v))
)
ANYTHING = NUMBERS | ARRAYS | st.none() | st.text(max_size=5) | st.lists(st.text(), max_size=8)
OPTIONS = ("add_bos_token", "add_space_prefix", "precompiled_charsmap", "normalizer.lowercase")


@st.composite
def metadata(draw: st.DrawFn) -> dict[str, Any]:
    """Keys that nearly make sense."""
    token = st.text(st.sampled_from("ab▁Ġ <>[]#0xA\n"), max_size=4)
    tokens = draw(st.lists(token, min_size=1, max_size=12, unique=draw(st.booleans())))
    count = len(tokens)
    finite = st.floats(-50, 50, width=32)
    pairs = st.tuples(st.sampled_from(tokens), st.sampled_from(tokens)).map(" ".join)
    keys: dict[str, Any] = {
        "model": draw(st.sampled_from(list(MODELS))),
        "pre": draw(st.sampled_from(list(PRE_TOKENIZERS))),
        "tokens": tokens,
        "merges": draw(st.lists(pairs, max_size=4)),
        "scores": array("f", draw(st.lists(finite, min_size=count, max_size=count))),
        "token_type": array("i", draw(st.lists(st.integers(0, 7), min_size=count, max_size=count))),
        **dict.fromkeys(("bos_token_id", "eos_token_id", "seperator_token_id"), 0),
        "unknown_token_id": draw(st.integers(0, count)),
    }
    for key in draw(st.lists(st.sampled_from([*keys, *OPTIONS]), max_size=2)):
        keys[key] = draw(ANYTHING)
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items() if value is not None}


@settings(deadline=None, max_examples=600)
@given(metadata(), st.text(max_size=12))
def test_a_tokenizer_or_a_value_error(keys: dict[str, Any], text: str) -> None:
    try:
        tokenizer = Tokenizer.from_gguf(keys, "model.gguf")
    except ValueError as error:
        assert str(error).startswith("model.gguf: ")
        return
    with suppress(ValueError):
        tokenizer.decode(tokenizer.encode(text))
    tokenizer.decode(range(tokenizer.size))
