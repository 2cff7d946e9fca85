"""Tokens of a model that is not there: the same again, spread over the vocabulary, and ending."""

from collections import Counter
from statistics import fmean, pstdev

import pytest

from pieria.engine.plan import Chunk, Draw
from pieria.plan.words import Words

STOPS = frozenset({3, 9})


def words(mean: int = 50, is_text: bool = False, tokens: int = 20) -> Words:
    return Words(range(tokens), STOPS, mean, is_text=is_text)


def chunk(request: str = "a", position: int = 5, seed: int = 0, **draw: object) -> Chunk:
    drawn = Draw(seed, **draw)  # type: ignore[arg-type]
    return Chunk(request, position - 1, (1,), ((0,),), draw=drawn)


def answer(from_: Words, seed: int, most: int = 10_000) -> list[int]:
    """Tokens of one request until it ends, that one included."""
    found: list[int] = []
    while len(found) < most and (not found or found[-1] not in STOPS):
        result = from_(chunk(f"r{seed}", 5 + len(found), seed))
        assert result.token is not None
        found.append(result.token)
    return found


def test_the_same_request_gets_the_same_tokens() -> None:
    assert answer(words(), 1) == answer(words(), 1)
    assert answer(words(), 1) != answer(words(), 2)
    one, other = words(), words()
    one(chunk(position=5))
    other(chunk(position=5))
    assert one(chunk(position=6)).token == other(chunk(position=6)).token
    choices = [[one(chunk(position=p, choice=c)).token for p in range(6, 16)] for c in (1, 2)]
    assert choices[0] != choices[1]


def test_random_tokens_are_all_but_those_that_end() -> None:
    found = Counter(t for seed in range(200) for t in answer(words(), seed)[:-1])
    assert set(found) == set(range(20)) - STOPS
    assert min(found.values()) > 0.7 * max(found.values())


def test_answers_end_after_the_mean_number_of_tokens() -> None:
    lengths = [len(answer(words(mean=60), seed)) - 1 for seed in range(3000)]
    assert fmean(lengths) == pytest.approx(60, rel=0.06)
    assert pstdev(lengths) == pytest.approx(60, rel=0.1), "as exponential ones do"
    assert min(lengths) >= 1


def test_an_end_that_is_banned_does_not_come() -> None:
    made = words(mean=1)
    for position in range(5, 300):
        assert made(chunk(position=position, banned=(3, 9))).token not in STOPS
    later = [made(chunk(position=p)).token for p in range(300, 400)]
    assert 3 in later, "it is tried again"


def test_a_text_is_read_from_somewhere_on() -> None:
    made = words(mean=10_000, is_text=True)
    text = [t for t in range(20) if t not in STOPS]
    said = [made(chunk(position=p, seed=7)).token for p in range(5, 45)]
    first = text.index(said[0])
    assert said == [text[(first + i) % 18] for i in range(40)]


def test_log_probabilities_are_made_up_in_the_right_number() -> None:
    made = words()
    result = made(chunk(logprobs=3))
    assert result.logprob is not None and result.logprob.token == result.token
    assert len(result.logprob.top) == 3
    asked = Chunk("b", 0, (1, 2, 3), ((0,),), targets=(2, 3), prompt_logprobs=1)
    assert [(r.token, len(r.top)) for r in made(asked).prompt_logprobs] == [(2, 1), (3, 1)]
    assert made(asked).token is None
