"""Draws against a naive one in numpy, against softmax, and against published SplitMix64 outputs."""

import importlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pieria import ops
from pieria.kernels.cpu import native
from pieria.ops import Draws
from pieria.ops.sample import gumbel, splitmix64

MASK = 2**64 - 1
STEP = 0x9E3779B97F4A7C15

ops.load("torch")
kernel = importlib.import_module("pieria.kernels.torch.sample")

Sample = Callable[[torch.Tensor, Draws], torch.Tensor]
SAMPLES = {"ref": ops.sample.reference, "torch": kernel.sample}
if native.available():
    SAMPLES["cpu"] = importlib.import_module("pieria.kernels.cpu.sample").sample
EACH = pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)


@pytest.fixture(params=[(128, 2048), (1, 2), (3, 8)], ids=str, scope="module")
def stages(request: pytest.FixtureRequest) -> Iterator[None]:
    """With few candidates, small vocabularies need all stages of the kernel."""
    usual = kernel.CANDIDATES
    kernel.CANDIDATES = request.param
    yield
    kernel.CANDIDATES = usual


@pytest.mark.parametrize(
    ("seed", "outputs"),
    [
        (
            1234567,  # rosettacode.org, "Pseudo-random numbers/Splitmix64"
            [
                6457827717110365317,
                3203168211198807973,
                9817491932198370423,
                4593380528125082431,
                16408922859458223821,
            ],
        ),
        (0, [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]),
    ],
)
def test_the_bits_of_a_key_are_the_splitmix64_stream(seed: int, outputs: list[int]) -> None:
    states = [signed(seed + (token + 1) * STEP) for token in range(len(outputs))]
    found = splitmix64(torch.tensor(states)).tolist()
    assert [x & MASK for x in found] == outputs
    noise = gumbel(torch.tensor([seed]), torch.arange(len(outputs)))[0].tolist()
    uniform = [((x >> 12) + 0.5) / 2**52 for x in outputs]
    assert noise == pytest.approx([-math.log(-math.log(u)) for u in uniform], rel=1e-14)


def test_noise_is_finite_where_the_bits_are_all_equal() -> None:
    for bits in (0, MASK):
        seed = signed(unmixed(bits) - STEP)
        assert splitmix64(torch.tensor(signed(seed + STEP))).item() & MASK == bits
        noise = gumbel(torch.tensor([seed]), torch.tensor([0])).item()
        u = 2.0**-53 if bits == 0 else 1 - 2.0**-53
        assert noise == pytest.approx(-math.log(-math.log(u)), rel=1e-12)


def test_noise_has_the_moments_of_gumbel() -> None:
    keys = torch.tensor([ops.key(seed, 0, 0) for seed in range(100)])
    noise = gumbel(keys, torch.arange(2000))
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.012)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, rel=0.03)


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 127), st.integers(0, 2**31))
@settings(max_examples=100, deadline=None)
def test_a_key_mixes_seed_choice_and_position(seed: int, choice: int, position: int) -> None:
    mixed = 0
    for number in (seed, choice, position):
        mixed = mix((mixed + number + STEP) & MASK)
    assert ops.key(seed, choice, position) == signed(mixed)


def test_keys_of_neighbours_differ() -> None:
    numbers = [(s, c, p) for s in range(-5, 5) for c in range(10) for p in range(10)]
    assert len({ops.key(*n) for n in numbers}) == len(numbers)
    assert ops.key(1, 2, 3) == 7702586659592502839, "the same request must give the same tokens"


CRITICAL = {7: 40.5, 3: 30.7, 15: 55.0}
"""Chi-square by degrees of freedom, exceeded by chance once in a million."""


@EACH
def test_tokens_follow_softmax(sample: Sample) -> None:
    logits = torch.tensor([1.0, -0.5, 0.0, 2.0, 0.3, -2.0, 1.1, 0.9])
    rows = 20_000
    keys = torch.tensor([ops.key(seed, 0, 17) for seed in range(rows)])
    temperature = torch.full((rows,), 1.3)
    drawn = ops.sample.reference(logits.expand(rows, -1), Draws(keys, temperature))
    counts = drawn.bincount(minlength=8).double()
    expected = rows * (logits.double() / 1.3).softmax(-1)
    assert ((counts - expected) ** 2 / expected).sum() < CRITICAL[7]
    some = slice(0, 200)
    again = sample(logits.expand(200, -1), Draws(keys[some], temperature[some]))
    assert torch.equal(again, drawn[some])


def test_what_is_left_keeps_its_proportions() -> None:
    logits = torch.tensor([1.0, -0.5, 0.0, 2.0, 0.3, -2.0, 1.1, 0.9])
    rows = 20_000
    keys = torch.tensor([ops.key(3, 0, position) for position in range(rows)])
    draws = Draws(keys, torch.ones(rows), torch.full((rows,), 4))
    counts = ops.sample.reference(logits.expand(rows, -1), draws).bincount(minlength=8).double()
    left = [3, 6, 0, 7]
    assert counts.sum() == counts[left].sum()
    expected = rows * logits[left].double().softmax(-1)
    assert ((counts[left] - expected) ** 2 / expected).sum() < CRITICAL[3]


def test_draws_at_neighbouring_positions_are_independent() -> None:
    logits = torch.zeros(4)
    keys = torch.tensor([ops.key(7, 0, position) for position in range(20_001)])
    drawn = ops.sample.reference(logits.expand(len(keys), -1), Draws(keys, torch.ones(len(keys))))
    found = torch.tensor([4 * a + b for a, b in pairwise(drawn.tolist())])
    counts = found.bincount(minlength=16).double()
    assert ((counts - 1250) ** 2 / 1250).sum() < CRITICAL[15]


@dataclass(frozen=True)
class Row:
    """One row's logits and options, neutral by default."""

    logits: tuple[float, ...]
    key: int
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0
    history: tuple[tuple[int, int], ...] = ()
    bias: tuple[tuple[int, float], ...] = ()


def naive(row: Row) -> int:
    """The definition, token by token in float64."""
    logits = np.array(row.logits, dtype=np.float64)
    for token, value in row.bias:
        logits[token] += value
    for token, count in row.history:
        if logits[token] > 0:
            logits[token] /= row.repetition
        else:
            logits[token] *= row.repetition
        logits[token] -= row.frequency * count
        logits[token] -= row.presence if count > 0 else 0
    if row.temperature == 0:
        return int(np.flatnonzero(logits == logits.max())[0])
    scaled = logits / row.temperature
    chance = np.exp(scaled - scaled.max())
    order = sorted(range(len(logits)), key=lambda t: (-scaled[t], t))
    order = [t for t in order if chance[t] >= row.min_p * chance.max()]
    if row.top_k > 0:
        order = order[: row.top_k]
    left, reached = [], 0.0
    for token in order:
        if row.top_p < 1 and reached >= row.top_p * chance[order].sum():
            break
        left.append(token)
        reached += chance[token]
    scores = {t: scaled[t] + noise_of(row.key, t) for t in left if scaled[t] > -np.inf}
    return min(scores, key=lambda t: (-scores[t], t))


def noise_of(key: int, token: int) -> float:
    u = ((mix((key + (token + 1) * STEP) & MASK) >> 12) + 0.5) / 2**52
    return -math.log(-math.log(u))


def mix(state: int) -> int:
    state = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ state >> 27) * 0x94D049BB133111EB) & MASK
    return state ^ state >> 31


def unmixed(bits: int) -> int:
    """The state whose `mix` is `bits`."""
    for shift, factor in ((31, 1), (27, 0x94D049BB133111EB), (30, 0xBF58476D1CE4E5B9)):
        if shift != 31:
            bits = bits * pow(factor if shift == 27 else factor, -1, 2**64) & MASK
        whole = bits
        for _ in range(64 // shift):
            whole = bits ^ whole >> shift
        bits = whole
    return bits


def signed(number: int) -> int:
    number &= MASK
    return number - 2**64 if number >= 2**63 else number


def batch(rows: list[Row], dtype: torch.dtype) -> tuple[torch.Tensor, Draws]:
    """The rows as one call, without tensors for options that none of them uses."""

    def column(name: str, kind: torch.dtype) -> torch.Tensor | None:
        neutral = next(f.default for f in fields(Row) if f.name == name)
        values = [getattr(row, name) for row in rows]
        return None if all(v == neutral for v in values) else torch.tensor(values, dtype=kind)

    def triplets(name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
        found = [(i, *pair) for i, row in enumerate(rows) for pair in getattr(row, name)]
        if not found:
            return None
        row, token, value = zip(*found, strict=True)
        return torch.tensor(row), torch.tensor(token), torch.tensor(value, dtype=torch.float32)

    columns = {
        f"{name}_R": column(name, torch.int64 if name == "top_k" else torch.float32)
        for name in (
            "temperature",
            "top_k",
            "top_p",
            "min_p",
            "repetition",
            "presence",
            "frequency",
        )
    }
    draws = Draws(
        torch.tensor([row.key for row in rows]),
        history=triplets("history"),
        bias=triplets("bias"),
        **columns,
    )
    return torch.tensor([row.logits for row in rows], dtype=dtype), draws


def rows_of(vocabulary: int) -> st.SearchStrategy[Row]:
    """Many equal logits, adjusted without rounding so that equal stays equal in every dtype.

    Shares of 97 equal tokens or fewer never reach k/97 exactly.
    """
    token = st.integers(0, vocabulary - 1)
    share = st.integers(1, 96).map(lambda k: float(np.float32(k / 97)))
    eighth = st.integers(-16, 16).map(lambda k: k / 8)
    return st.builds(
        Row,
        logits=st.tuples(*[st.integers(-24, 24).map(lambda k: k / 4)] * vocabulary),
        key=st.integers(-(2**63), 2**63 - 1),
        temperature=st.sampled_from([0.0, 0.25, 0.7, 1.0, 2.5]).map(lambda t: float(np.float32(t))),
        top_k=st.integers(-1, vocabulary + 2),
        top_p=st.one_of(st.just(1.0), share),
        min_p=st.one_of(st.just(0.0), st.just(1.0), share),
        repetition=st.sampled_from([1.0, 0.5, 2.0, 4.0]),
        presence=eighth,
        frequency=eighth,
        history=st.lists(
            st.tuples(token, st.integers(0, 5)), unique_by=lambda x: x[0], max_size=6
        ).map(tuple),
        bias=st.lists(
            st.tuples(token, st.one_of(eighth, st.just(-math.inf))),
            unique_by=lambda x: x[0],
            max_size=4,
        ).map(tuple),
    )


ROWS = st.integers(5, 24).flatmap(lambda v: st.lists(rows_of(v), min_size=1, max_size=5))


@pytest.mark.usefixtures("stages")
@given(rows=ROWS)
@settings(max_examples=100, deadline=None)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_every_option_is_the_naive_one(dtype: torch.dtype, rows: list[Row]) -> None:
    logits_RV, draws = batch(rows, dtype)
    wanted = [naive(row) for row in rows]
    assert ops.sample.reference(logits_RV, draws).tolist() == wanted
    assert kernel.sample(logits_RV, draws).tolist() == wanted


@pytest.mark.usefixtures("stages")
@given(rows=ROWS)
@settings(max_examples=60, deadline=None)
def test_a_row_depends_on_no_other_and_on_no_option_that_only_others_use(rows: list[Row]) -> None:
    together = batch(rows, torch.float32)
    alone = [batch([row], torch.float32) for row in rows]
    for sample in (ops.sample.reference, kernel.sample):
        assert sample(*together).tolist() == [sample(*one).item() for one in alone]


@EACH
@pytest.mark.usefixtures("stages")
def test_a_large_vocabulary_gives_what_the_reference_gives(sample: Sample) -> None:
    """Flat rows, where hardly any candidates suffice, and steep ones; bfloat16 has many equals."""
    generator = torch.Generator().manual_seed(0)
    rows, vocabulary = 6, 5000
    logits_RV = torch.randn(rows, vocabulary, generator=generator)
    logits_RV *= torch.tensor([0.1, 1, 4, 0.1, 1, 4])[:, None]
    keys_R = torch.tensor([ops.key(5, 0, i) for i in range(rows)])
    for top_k in (None, torch.tensor([0, 3000, 100, 4999, 0, 5])):
        draws = Draws(
            keys_R, torch.ones(rows), top_k, torch.tensor([0.999, 0.9, 0.95, 0.5, 1.0, 0.2])
        )
        for logits in (logits_RV, logits_RV.bfloat16()):
            assert torch.equal(sample(logits, draws), ops.sample.reference(logits, draws))


@EACH
def test_equal_logits_go_to_the_lower_token(sample: Sample) -> None:
    logits_RV = torch.tensor([[0.0, 2.0, 1.0, 2.0], [3.0, 3.0, 3.0, 3.0]])
    assert sample(logits_RV, Draws(torch.tensor([1, 2]))).tolist() == [1, 0]
    for key in range(20):
        draws = Draws(torch.tensor([key, key]), torch.ones(2), torch.tensor([1, 2]))
        assert sample(logits_RV, draws)[0] == 1
        assert sample(logits_RV, draws)[1] in (0, 1)


OPTIONS = pytest.mark.parametrize(
    "options",
    [
        {},
        {
            "temperature_R": torch.ones(3),
            "top_k_R": torch.tensor([3, 0, 1]),
            "top_p_R": torch.tensor([0.5, 1.0, 0.9]),
        },
    ],
    ids=["greedy", "limited"],
)


@EACH
@OPTIONS
def test_a_row_of_which_everything_is_banned_is_no_error(
    sample: Sample, options: dict[str, torch.Tensor]
) -> None:
    rows, tokens = torch.arange(3).repeat_interleave(7), torch.arange(7).repeat(3)
    banned = rows, tokens, torch.full((21,), -math.inf)
    draws = Draws(torch.arange(3), **options, bias=banned)
    assert sample(torch.zeros(3, 7), draws).tolist() == [0, 0, 0]


@EACH
@OPTIONS
def test_a_row_that_is_not_finite_has_no_token_and_others_keep_theirs(
    sample: Sample, options: dict[str, torch.Tensor]
) -> None:
    """A token of minus infinity is one that is never drawn; where all are, there is none."""
    generator = torch.Generator().manual_seed(0)
    logits_RV = torch.randn(3, 300, generator=generator)
    logits_RV[:, 17] = -math.inf
    draws = Draws(torch.arange(3), **options)
    usual = sample(logits_RV, draws).tolist()
    assert min(usual) >= 0
    for broken, where in ((math.nan, 299), (math.inf, 299), (-math.inf, slice(None))):
        changed_RV = logits_RV.clone()
        changed_RV[1, where] = broken
        assert sample(changed_RV, draws).tolist() == [usual[0], -1, usual[2]]
