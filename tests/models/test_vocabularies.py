"""Merging by scores and the best sum of scores, against the sentencepiece library."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor

from pieria.models.vocabularies import (
    MARK,
    NORMAL,
    UNKNOWN,
    Spaces,
    Vocabulary,
    scored_bpe,
    unigram,
)
from tests.models.sentencepiece_bytes import model

TEXT = st.text(st.sampled_from("ab "), max_size=30)


@st.composite
def tokens(draw: st.DrawFn) -> list[str]:
    """Single characters, and others put together from those before."""
    found = [MARK, "a", "b"]
    for _ in range(draw(st.integers(0, 20))):
        token = draw(st.sampled_from(found)) + draw(st.sampled_from(found))
        if token not in found and len(token) <= 8:
            found.append(token)
    return ["<unk>", *found]


@settings(deadline=None, max_examples=400)
@given(tokens(), st.data(), st.lists(TEXT, min_size=5, max_size=5))
def test_scored_bpe(tokens: list[str], data: st.DataObject, texts: list[str]) -> None:
    """Whatever the order of the scores; trained models have their own order, all different."""
    scores = [-float(s) for s in data.draw(st.permutations(range(len(tokens))))]
    types = [UNKNOWN] + [NORMAL] * (len(tokens) - 1)
    backend = scored_bpe(Vocabulary(tokens, types), scores, Spaces(before_text=True))
    pieces = list(zip(tokens, scores, types, strict=True))
    reference = SentencePieceProcessor(model_proto=model(pieces))
    for text in texts:
        assert backend.encode(text, add_special_tokens=False).ids == reference.encode(text)


@pytest.mark.parametrize("longest", [2, 3, 4, 7, 16])
def test_runs_of_equal_scores(longest: int) -> None:
    """As Llama's runs of spaces: they are all worth the same, and grow from the left."""
    tokens = ["<unk>", *(MARK * n for n in range(1, longest + 1)), "x", MARK + "x"]
    scores = [0.0, *[-1e9] * longest, -5.0, -2.0]
    types = [UNKNOWN] + [NORMAL] * (len(tokens) - 1)
    backend = scored_bpe(Vocabulary(tokens, types), scores, Spaces())
    pieces = list(zip(tokens, scores, types, strict=True))
    reference = SentencePieceProcessor(model_proto=model(pieces, add_space=False))
    for count in range(60):
        for text in (" " * count, " " * count + "x", "x" + " " * count + "xx" + " " * count):
            assert backend.encode(text).ids == reference.encode(text), count


@settings(deadline=None, max_examples=200)
@given(tokens(), st.data(), st.lists(TEXT, min_size=5, max_size=5), st.booleans(), st.booleans())
def test_unigram(
    tokens: list[str], data: st.DataObject, texts: list[str], add_space: bool, collapse: bool
) -> None:
    """The same text and the same sum; of cuts that are worth the same, either may be taken."""
    count = len(tokens)
    numbers = st.floats(-20, -1, width=16)
    scores = data.draw(st.lists(numbers, min_size=count, max_size=count))
    types = [UNKNOWN] + [NORMAL] * (count - 1)
    spaces = Spaces(before_text=add_space, collapse=collapse)
    backend = unigram(Vocabulary(tokens, types), scores, spaces, unknown=0)
    proto = model(
        list(zip(tokens, scores, types, strict=True)),
        kind=1,
        add_space=add_space,
        collapse=collapse,
    )
    reference = SentencePieceProcessor(model_proto=proto)
    for text in texts:
        found, wanted = backend.encode(text).ids, reference.encode(text)
        assert "".join(tokens[id] for id in found) == "".join(tokens[id] for id in wanted)
        total = [sum(scores[id] for id in ids) for ids in (found, wanted)]
        assert total[0] == pytest.approx(total[1], abs=1e-4)


def test_a_vocabulary_is_checked() -> None:
    with pytest.raises(ValueError, match="the token 'b' occurs twice"):
        Vocabulary(["a", "b", "b"], [1, 1, 1])
    with pytest.raises(ValueError, match="there are 2 tokens and 1 types"):
        Vocabulary(["a", "b"], [1])
