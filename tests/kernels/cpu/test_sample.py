"""Tokens at the sizes of a model, where most of the vocabulary is passed by: those of the
reference, for every instruction set.
"""

import importlib
import math
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from pieria import ops
from pieria.kernels.cpu import Arena, native, record
from pieria.ops import Draws
from tests.ops.test_sample import MASK, ROWS, STEP, Row, batch, naive, signed, unmixed

ops.load("cpu")
sample = importlib.import_module("pieria.kernels.cpu.sample").sample

VOCABULARY = 20_011
DTYPES = pytest.mark.parametrize("dtype", list(native.DTYPES), ids=lambda d: str(d)[6:])


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def wide_rows() -> torch.Tensor:
    """Flat, steep and coarse ones, one far ahead of the rest, many banned, and a language's: a few
    hundred tokens ahead of a broad rest.
    """
    logits_RV = random(8, VOCABULARY)
    logits_RV *= torch.tensor([0.01, 1, 4, 30, 2, 3, 2, 2.5])[:, None]
    logits_RV[4] = logits_RV[4].round()
    logits_RV[5, 4321] += 60
    logits_RV[6, torch.randperm(VOCABULARY)[:15_000]] = -math.inf
    logits_RV[7, torch.randperm(VOCABULARY)[:300]] += 12 * random(300, seed=1).abs()
    return logits_RV


@pytest.mark.usefixtures("isa")
@given(rows=ROWS)
@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_every_option_is_the_naive_one(rows: list[Row]) -> None:
    wanted = [naive(row) for row in rows]
    for dtype in native.DTYPES:
        assert sample(*batch(rows, dtype)).tolist() == wanted


@pytest.mark.usefixtures("isa")
@DTYPES
def test_a_large_vocabulary_gives_what_the_reference_gives(dtype: torch.dtype) -> None:
    logits_RV = wide_rows().to(dtype)
    rows = len(logits_RV)
    columns: list[dict[str, Any]] = [
        {},
        *({"top_k_R": torch.full((rows,), k)} for k in (1, 50, 1500, 12_000, VOCABULARY + 1)),
        *({"top_p_R": torch.full((rows,), p)} for p in (1e-6, 0.5, 0.9, 0.999)),
        {"min_p_R": torch.full((rows,), 0.01)},
        {"top_k_R": torch.full((rows,), 300), "top_p_R": torch.full((rows,), 0.8)},
        {"top_p_R": torch.full((rows,), 0.9), "min_p_R": torch.full((rows,), 1e-4)},
    ]
    for number, (columns_, degree) in enumerate(product(columns, (0.3, 1.0, 5.0))):
        keys_R = torch.tensor([ops.key(number, 0, i) for i in range(rows)])
        draws = Draws(keys_R, torch.full((rows,), degree), **columns_)
        wanted = ops.sample.reference(logits_RV, draws)
        assert torch.equal(sample(logits_RV, draws), wanted), (columns_, degree)
    assert torch.equal(sample(logits_RV, Draws(keys_R)), logits_RV.float().argmax(-1))


@pytest.mark.usefixtures("isa")
def test_temperatures_beyond_reason_are_those_of_the_reference() -> None:
    logits_RV = wide_rows()
    keys_R = torch.arange(len(logits_RV))
    for degree in (1e-42, 1e-20, 1e-5, 1e5, 1e30):
        for top_p in (None, torch.full((len(logits_RV),), 0.7)):
            draws = Draws(keys_R, torch.full((len(logits_RV),), degree), top_p_R=top_p)
            assert torch.equal(sample(logits_RV, draws), ops.sample.reference(logits_RV, draws))


@pytest.mark.usefixtures("isa")
def test_the_largest_noise_wins_up_to_its_size() -> None:
    """A token whose hash is all ones has noise 36.7; how far it may be behind is found exactly."""
    token, won = 11_111, set()
    for number, behind in enumerate(torch.arange(30, 41, 0.125).tolist()):
        logits_RV = torch.full((1, VOCABULARY), -1000.0)
        logits_RV[0, number], logits_RV[0, token] = 0.0, -behind
        key = signed(unmixed(MASK) - (token + 1) * STEP)
        draws = Draws(torch.tensor([key]), torch.ones(1))
        found = sample(logits_RV, draws)
        assert torch.equal(found, ops.sample.reference(logits_RV, draws))
        won.add(found.item() == token)
    assert won == {True, False}


@pytest.mark.usefixtures("isa")
def test_tokens_of_equal_logits_are_kept_in_their_order() -> None:
    """All are equal: those that top_k and top_p leave are the first ones, whose noise decides."""
    logits_RV = torch.full((1, VOCABULARY), 2.5)
    for key, (k, p) in product(range(5), [(7, 1.0), (0, 0.25), (9000, 1.0), (9000, 0.5)]):
        draws = Draws(
            torch.tensor([key]), torch.ones(1), torch.tensor([k]), torch.tensor([p]).float()
        )
        left = math.ceil((k or VOCABULARY) * p)
        every = replace(draws, top_k_R=None, top_p_R=None)
        assert sample(logits_RV, draws) == ops.sample.reference(logits_RV[:, :left], every)


@pytest.mark.usefixtures("isa")
@DTYPES
def test_rows_that_are_not_side_by_side(dtype: torch.dtype) -> None:
    """Each row's neighbours in memory are NaN; one row may also be read for all."""
    whole = torch.full((6, 1300), torch.nan, dtype=dtype)
    whole[::2, 100:1100] = random(3, 1000).to(dtype)
    draws = Draws(torch.arange(3), torch.ones(3), torch.tensor([0, 5, 900]))
    for logits_RV in (whole[::2, 100:1100], whole[:1, 100:1100].expand(3, -1)):
        assert torch.equal(sample(logits_RV, draws), sample(logits_RV.contiguous(), draws))


@pytest.mark.usefixtures("isa")
def test_the_threads_change_nothing() -> None:
    logits_RV = wide_rows()
    draws = Draws(torch.arange(8), torch.ones(8), top_p_R=torch.full((8,), 0.95))
    wanted = sample(logits_RV, draws)
    native.use_threads(3)
    try:
        assert torch.equal(sample(logits_RV, draws), wanted)
    finally:
        native.use_threads(1)


def test_a_recorded_draw_reads_what_is_new() -> None:
    logits_RV = wide_rows()
    keys_R, temperature_R = torch.arange(8), torch.ones(8)
    with record(Arena(), lambda: 0) as recording:
        tokens_R = sample(logits_RV, Draws(keys_R, temperature_R))
    keys_R += 100
    temperature_R[3] = 0
    logits_RV[0, 77] = 1000
    recording.replay()
    assert torch.equal(tokens_R, ops.sample.reference(logits_RV, Draws(keys_R, temperature_R)))
    assert tokens_R[0] == 77 and tokens_R[3] == logits_RV[3].argmax()
