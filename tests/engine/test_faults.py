"""Whatever fails while one request is looked at ends that request alone, and says what it was."""

import ast
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch

from pieria.engine.messages import Output
from pieria.engine.process import _added
from pieria.models.decoder import Decoder
from tests.engine import real
from tests.engine.faults import BAD, POINTS, SEED, Fault, fault, poison

GOOD = [
    real.add("a", [1, 2, 3, 4, 5, 6], temperature=0.8, seed=1),
    real.add("b", [7, 8] * 9, logprobs=2),
    real.add("c", [9], temperature=1.2, seed=3, top_k=20, presence_penalty=0.5),
    real.add("d", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], max_tokens=14, ignore_eos=True),
]
WRONG = real.add(
    BAD, [1, 2, 3, 4, 11, 12, 13, 14, 15], 8, seed=SEED, salt=BAD, temperature=0.9, ignore_eos=True
)


@pytest.fixture(scope="module")
def model() -> Iterator[Decoder]:
    torch.manual_seed(0)
    yield real.tiny_model()


@pytest.fixture(scope="module")
def wanted(model: Decoder) -> dict[str, list[int]]:
    return {message.id: real.naive(model, message) for message in GOOD}


def serve(model: Decoder, wanted: dict[str, list[int]]) -> list[Output]:
    """Serve all; the news of the bad one. The others have what they have alone."""
    engine = real.engine(model)
    refused: list[Output] = []
    for message in (GOOD[0], WRONG, *GOOD[1:]):
        refused += _added(engine, message)
    news = real.run(engine)
    for id, tokens in wanted.items():
        assert real.tokens_of(news[id]) == tokens
    assert engine.stats.pages_held == 0
    engine.rest()
    assert engine.stats.repairs == 0
    return refused or news[BAD]


ONCE = ("queue", "admit", "match", "finish")
CASES: list[tuple[str, type[Exception], int]] = [
    *[(point, RuntimeError, 1) for point in POINTS],
    *[(point, MemoryError, 1) for point in POINTS],
    *[(point, RuntimeError, 2) for point in POINTS if point not in ONCE],
    ("run", ValueError, 2),
    ("commit", AssertionError, 2),
]


@pytest.mark.parametrize(("point", "error", "at"), CASES)
def test_a_fault_ends_one_request(
    model: Decoder, wanted: dict[str, list[int]], point: str, error: type[Exception], at: int
) -> None:
    with fault(point, error, at) as made:
        last = serve(model, wanted)[-1]
    assert made.struck
    assert last.finish_reason == "error" and last.error is not None
    assert "secret" not in last.error
    assert ("not enough memory" if error is MemoryError else error.__name__) in last.error


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("at", [1, 4])
def test_logits_that_are_not_finite_end_one_request(
    model: Decoder, wanted: dict[str, list[int]], value: float, at: int
) -> None:
    with poison(value, at) as made:
        news = serve(model, wanted)
    assert made.struck == 1
    assert news[-1].error == "the model's logits are not finite"
    assert len(real.tokens_of(news)) == at - 1


def test_only_what_keeps_state_asserts() -> None:
    """What a request says is checked with errors, by those who take it: they assert nothing."""
    found = {
        path.name
        for path in (Path(real.__file__).parents[2] / "src/pieria/engine").glob("*.py")
        if any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(path.read_text())))
    }
    cache = {"pages.py", "prefix_cache.py", "batch.py"}
    assert found <= cache | {
        "scheduler.py",
        "tenants.py",
        "client.py",
        "in_flight.py",
        "capture.py",
    }


def test_without_a_fault_nothing_fails(model: Decoder, wanted: dict[str, list[int]]) -> None:
    """The points are met, and do nothing until they are told to."""
    never: list[AbstractContextManager[Fault]] = [fault(p, at=10**9) for p in POINTS]
    met = [context.__enter__() for context in never]
    try:
        news = serve(model, wanted)
    finally:
        for context in reversed(never):
            context.__exit__(None, None, None)
    assert news[-1].finish_reason == "length"
    assert all(made.calls for made in met)
