"""A step's draws against a loop over rows that does what each draw says, in plain Python."""

import math
from array import array
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pieria import ops
from pieria.engine.plan import Draw, Logprob
from pieria.engine.sampler import draw, logprobs
from pieria.kernels.cpu import native
from pieria.ops.sample import gumbel

VOCABULARY = 40
BACKENDS = {"reference": torch.float64, "torch": torch.float64}
"""Each with the widest dtype that it takes."""
if native.available():
    BACKENDS["cpu"] = torch.float32


def logits(rows: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, VOCABULARY, generator=generator, dtype=dtype) * 3


def naive(logits_V: list[float], d: Draw, position: int) -> int:
    """One token: bias, penalties, temperature, min_p, top_k, top_p, then the noise of its key."""
    scores = list(logits_V)
    for token, added in d.bias:
        if token < VOCABULARY and token not in d.banned:
            scores[token] += added
    for token in d.banned:
        if token < VOCABULARY:
            scores[token] = -math.inf
    for token, times in zip(array("i", d.seen), array("i", d.times), strict=True):
        factor = d.repetition_penalty
        scores[token] = scores[token] / factor if scores[token] > 0 else scores[token] * factor
        scores[token] -= d.frequency_penalty * times + d.presence_penalty * (times > 0)
    if d.temperature == 0:
        return max(range(VOCABULARY), key=lambda t: (scores[t], -t))
    scores = [s / d.temperature for s in scores]
    best = max(scores)
    weight = [math.exp(s - best) for s in scores]
    left = [t for t in range(VOCABULARY) if weight[t] >= d.min_p]
    left.sort(key=lambda t: (-scores[t], t))
    if d.top_k > 0:
        left = left[: d.top_k]
    if d.top_p < 1:
        wanted, reached, kept = d.top_p * sum(weight[t] for t in left), 0.0, []
        for t in left:
            if reached >= wanted and kept:
                break
            kept.append(t)
            reached += weight[t]
        left = kept
    key = torch.tensor([ops.key(d.seed, d.choice, position)])
    noise = gumbel(key, torch.arange(VOCABULARY))[0].tolist()
    return max(left, key=lambda t: scores[t] + noise[t])


def made(history: dict[int, int], **fields: Any) -> Draw:
    seen, times = array("i", history.keys()), array("i", history.values())
    return Draw(seen=seen.tobytes(), times=times.tobytes(), **fields)


# Steps that float32 holds exactly: the sampler's options go through it.
DRAWS = st.builds(
    made,
    history=st.dictionaries(st.integers(0, VOCABULARY - 1), st.integers(0, 4), max_size=9),
    seed=st.integers(-(2**63), 2**63 - 1),
    choice=st.integers(0, 3),
    temperature=st.sampled_from([0.0, 0.5, 1.0, 1.75]),
    top_k=st.sampled_from([0, 1, 3, 10, 100]),
    top_p=st.sampled_from([1.0, 0.875, 0.5, 0.0078125]),
    min_p=st.sampled_from([0.0, 0.015625, 0.25, 1.0]),
    presence_penalty=st.sampled_from([0.0, 0.5, -1.5]),
    frequency_penalty=st.sampled_from([0.0, 0.25, -0.5]),
    repetition_penalty=st.sampled_from([1.0, 1.25, 0.5]),
    bias=st.dictionaries(st.integers(0, VOCABULARY + 3), st.sampled_from([-100.0, -2.0, 5.0])).map(
        lambda added: tuple(added.items())
    ),
    banned=st.lists(st.integers(0, VOCABULARY + 3), max_size=5, unique=True).map(tuple),
)


@pytest.fixture(scope="module", autouse=True, params=BACKENDS)
def dtype(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    ops.use(*([] if request.param == "reference" else [request.param]))
    yield BACKENDS[request.param]
    ops.use()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    wanted=st.lists(st.tuples(DRAWS, st.integers(1, 1000)), min_size=1, max_size=5),
    seed=st.integers(0, 100),
)
def test_each_row_gets_what_its_draw_says(
    dtype: torch.dtype, wanted: list[tuple[Draw, int]], seed: int
) -> None:
    logits_RV = logits(len(wanted), dtype, seed)
    found = draw(logits_RV, [d for d, _ in wanted], [position for _, position in wanted])
    assert found.dtype == torch.int64
    tokens = [naive(row, *one) for row, one in zip(logits_RV.tolist(), wanted, strict=True)]
    assert found.tolist() == tokens


def test_company_changes_nothing(dtype: torch.dtype) -> None:
    logits_RV = logits(4, dtype)
    plain = Draw(seed=1, temperature=1.0)
    others = [
        Draw(seed=2, temperature=0.5, top_k=3, bias=((1, 5.0),), banned=(2, 3)),
        made({1: 0, 2: 0, 4: 2}, seed=3, repetition_penalty=1.5),
        Draw(seed=3, top_p=0.5, min_p=0.1, temperature=2.0),
    ]
    alone = draw(logits_RV[:1], [plain], [3]).tolist()
    assert draw(logits_RV, [plain, *others], [3, 9, 1, 1]).tolist()[:1] == alone


def test_each_part_of_the_key_counts() -> None:
    keys = [(6, 7, 5), (8, 7, 5), (6, 8, 5), (6, 7, 8)]
    draws = [Draw(seed, choice, temperature=1.0) for seed, choice, _ in keys]
    flat_RV = torch.zeros(4, 100_000)
    assert len(set(draw(flat_RV, draws, [position for *_, position in keys]).tolist())) == 4


def test_draws_have_the_distribution_of_the_softmax() -> None:
    """Of 4000 draws, each share is within 5 standard deviations."""
    row_V = torch.tensor([2.0, 1.0, 0.0, -1.0, -3.0])
    count = 4000
    draws = [Draw(seed=3, temperature=1.5)] * count
    found = draw(row_V.repeat(count, 1), draws, range(count)).bincount(minlength=5) / count
    wanted = torch.softmax(row_V / 1.5, -1)
    assert ((found - wanted).abs() < 5 * (wanted * (1 - wanted) / count).sqrt()).all()


def test_logprobs_are_those_of_the_softmax(dtype: torch.dtype) -> None:
    logits_RV = logits(4, dtype)
    wanted_RV = torch.log_softmax(logits_RV.double(), -1)
    error = 1e-12 if dtype == torch.float64 else 1e-5
    tokens = [3, 7, 11, 39]
    found = logprobs(logits_RV, tokens, [None, 0, 2, 1000])
    assert found[0] is None
    for row, count in ((1, 0), (2, 2), (3, VOCABULARY)):
        report = found[row]
        assert isinstance(report, Logprob)
        assert report.token == tokens[row]
        assert report.logprob == pytest.approx(float(wanted_RV[row, tokens[row]]), abs=error)
        better = int((wanted_RV[row] > wanted_RV[row, tokens[row]]).sum())
        assert report.rank == 1 + better
        order = wanted_RV[row].argsort(descending=True)[:count].tolist()
        assert [token for token, _ in report.top] == order
        values = [float(wanted_RV[row, token]) for token in order]
        assert [value for _, value in report.top] == pytest.approx(values, abs=error)


def test_reports_on_every_row_are_those_on_each(dtype: torch.dtype) -> None:
    logits_RV = logits(3, dtype)
    tokens = [3, 7, 11]
    together = logprobs(logits_RV, tokens, [2, 2, 2])
    for row in range(3):
        alone = logprobs(logits_RV, tokens, [2 if i == row else None for i in range(3)])
        assert together[row] == alone[row] is not None


def test_no_report_is_computed_when_none_is_wanted(dtype: torch.dtype) -> None:
    assert logprobs(logits(2, dtype), [1, 2], [None, None]) == [None, None]


def test_a_greedy_step_asks_for_no_noise_and_no_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[ops.Draws] = []

    def sample(logits_RV: Tensor, draws: ops.Draws) -> Tensor:
        asked.append(draws)
        return draws.keys_R

    monkeypatch.setattr(ops, "sample", sample)
    draw(torch.zeros(2, 5), [Draw(seed=1, top_k=3, top_p=0.5, min_p=0.5)] * 2, [1, 1])
    (draws,) = asked
    assert {f.name for f in fields(draws) if getattr(draws, f.name) is not None} == {"keys_R"}


def test_a_row_that_is_not_finite_has_no_token(dtype: torch.dtype) -> None:
    logits_RV = logits(3, dtype)
    draws = [Draw(seed=1, temperature=1.0)] * 3
    usual = draw(logits_RV, draws, [3] * 3).tolist()
    logits_RV[1, 7] = math.nan
    assert draw(logits_RV, draws, [3] * 3).tolist() == [usual[0], -1, usual[2]]
