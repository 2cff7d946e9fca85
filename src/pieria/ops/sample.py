"""Drawing tokens: a pure function of a row's logits, options and key.

Knows no request; the key says which draw this is. R rows, V vocabulary, N tokens of a history,
M biases, C candidates.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from pieria.ops.op import Case, Cost, Inputs, nbytes, op, widen

_MASK = 2**64 - 1
_STEP = 0x9E3779B97F4A7C15
_FACTORS = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB

Triplets = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Draws:
    """How to draw one token for each row. None: no row uses it.

    keys_R: int64, see `key`. temperature_R: greedy at 0. top_k_R: int64, off at 0 or less.
    top_p_R, repetition_R: off at 1. min_p_R, presence_R, frequency_R: off at 0. The rest: float32.
    history: (rows_N, tokens_N, counts_N) of the tokens that penalties look at, each (row, token)
    once; counts: how often it occurs in the output, 0 if only in the prompt.
    bias: (rows_M, tokens_M, values_M), added to logits; -inf bans.
    """

    keys_R: Tensor
    temperature_R: Tensor | None = None
    top_k_R: Tensor | None = None
    top_p_R: Tensor | None = None
    min_p_R: Tensor | None = None
    repetition_R: Tensor | None = None
    presence_R: Tensor | None = None
    frequency_R: Tensor | None = None
    history: Triplets | None = None
    bias: Triplets | None = None

    def select(self, rows_S: Tensor) -> "Draws":
        """The draws of these rows alone, in this order. rows_S: int64, no two equal."""
        place_R = torch.full_like(self.keys_R, -1)
        place_R[rows_S] = torch.arange(len(rows_S), device=rows_S.device)

        def part(value: Tensor | Triplets | None) -> Tensor | Triplets | None:
            if isinstance(value, tuple):
                kept_N = place_R[value[0]] >= 0
                return place_R[value[0]][kept_N], value[1][kept_N], value[2][kept_N]
            return None if value is None else value[rows_S]

        parts: dict[str, Any] = {f.name: part(getattr(self, f.name)) for f in fields(self)}
        return Draws(**parts)


@op
def sample(logits_RV: Tensor, draws: Draws) -> Tensor:
    """tokens_R int64: argmax of logits / temperature + Gumbel noise over the allowed tokens.

    Greedy rows: argmax of the logits. In this order: bias, penalties, temperature, min_p, top_k,
    top_p (as vLLM). Of equals the lower token wins. A row's token depends on nothing but its own
    logits and draw. Bias and penalties are computed in float32 or wider, what follows in float64.
    -1 for a row whose largest logit is not finite, or that has a NaN.
    """
    finite_R = torch.isfinite(widen(logits_RV).amax(-1))
    return torch.where(finite_R, drawn(adjusted(logits_RV, draws), draws), -1)


@sample.shapes
def _(logits_RV: Tensor, draws: Draws) -> Tensor:
    return draws.keys_R.new_empty(draws.keys_R.shape)


@sample.cost
def _(out: Tensor, logits_RV: Tensor, draws: Draws) -> Cost:
    """Without a sort for top_k and top_p: how much of one is up to the implementation."""
    per_logit = 1 if draws.temperature_R is None else 20
    return Cost(flops=per_logit * logits_RV.numel(), bytes=nbytes(logits_RV, out))


@sample.row
def _(i: int, logits_RV: Tensor, draws: Draws) -> tuple[Any, ...]:
    return logits_RV[i : i + 1], draws.select(torch.tensor([i], device=logits_RV.device))


@sample.cases
def _(make: Inputs) -> Iterator[Case]:
    def case(name: str, rows: int, vocabulary: int, bench: bool = False, **options: Any) -> Case:
        keys_R = make.integers(-(2**63), 2**63 - 1, rows)
        for field in fields(Draws):
            value = options.get(field.name)
            if isinstance(value, list):
                dtype = torch.int64 if field.name == "top_k_R" else torch.float32
                repeated = (value * rows)[:rows]
                options[field.name] = make.tensor(repeated, dtype)
        logits_RV = make.normal(rows, vocabulary, scale=3)
        return Case(name, (logits_RV, Draws(keys_R, **options)), bench=bench)

    def triplets(values: Sequence[float]) -> Triplets:
        """On rows 0, 1, 0, 1, ... and distinct tokens of a vocabulary of at least 40."""
        count = len(values)
        rows_N = torch.arange(count, device=make.device) % 2
        return rows_N, make.permutation(40)[:count], make.tensor(list(values), torch.float32)

    history = triplets([0, 1, 2, 5, 0, 3, 1, 1, 0, 7])
    bias = triplets([5.0, float("-inf"), -3.0, 8.0, float("-inf")])
    penalties: dict[str, Any] = {
        "repetition_R": [1.3, 0.8],
        "presence_R": [0.5],
        "frequency_R": [0.2, -0.4],
    }
    some = [0.7, 0.0, 1.6]
    yield case("greedy", 3, 33)
    yield case("greedy, bias, penalties", 2, 50, bias=bias, history=history, **penalties)
    yield case("temperature", 5, 300, temperature_R=some)
    yield case("top k", 7, 300, temperature_R=some, top_k_R=[1, 5, 0, 400])
    yield case("top p", 7, 3000, temperature_R=[1.0, 9.0, 0.0], top_p_R=[0.9, 0.3, 1.0, 1e-6])
    yield case("min p", 7, 300, temperature_R=some, min_p_R=[0.1, 0.0, 1.0])
    yield case(
        "everything",
        11,
        2000,
        temperature_R=some,
        top_k_R=[0, 40, 1500, 7],
        top_p_R=[1.0, 0.95, 0.5],
        min_p_R=[0.0, 0.02],
        bias=bias,
        history=history,
        **penalties,
    )
    yield case("32 greedy", 32, 49152, bench=True)
    yield case("32, temperature", 32, 49152, bench=True, temperature_R=[0.7])
    yield case("32, top k", 32, 49152, bench=True, temperature_R=[0.7], top_k_R=[50])
    yield case("32, top p", 32, 49152, bench=True, temperature_R=[0.7], top_p_R=[0.9])


def adjusted(logits_RV: Tensor, draws: Draws) -> Tensor:
    """Logits after bias and penalties, widened.

    Repetition (Keskar et al. 2019, arXiv:1909.05858) divides a positive logit and multiplies a
    negative one; frequency and presence (OpenAI) subtract per occurrence in the output, and once.
    """
    logits_RV = widen(logits_RV)
    if draws.bias is not None:
        rows_M, tokens_M, values_M = draws.bias
        added_M = values_M.to(logits_RV.dtype)
        logits_RV = logits_RV.index_put((rows_M, tokens_M), added_M, accumulate=True)
    if draws.history is not None:
        rows_N, tokens_N, counts_N = draws.history
        logit_N = logits_RV[rows_N, tokens_N]
        if draws.repetition_R is not None:
            factor_N = draws.repetition_R[rows_N]
            logit_N = torch.where(logit_N > 0, logit_N / factor_N, logit_N * factor_N)
        if draws.frequency_R is not None:
            logit_N = logit_N - draws.frequency_R[rows_N] * counts_N
        if draws.presence_R is not None:
            logit_N = logit_N - draws.presence_R[rows_N] * (counts_N > 0)
        logits_RV = logits_RV.index_put((rows_N, tokens_N), logit_N.to(logits_RV.dtype))
    return logits_RV


def drawn(logits_RV: Tensor, draws: Draws) -> Tensor:
    """The tokens of adjusted logits, finite or not."""
    greedy_R = logits_RV.argmax(-1)
    if draws.temperature_R is None:
        return greedy_R
    scaled_RV = scale(logits_RV, draws.temperature_R)
    scaled_RV = scaled_RV.masked_fill(~allowed(scaled_RV, draws), float("-inf"))
    tokens_V = torch.arange(scaled_RV.shape[1], device=scaled_RV.device)
    drawn_R = (scaled_RV + gumbel(draws.keys_R, tokens_V)).argmax(-1)
    return torch.where(draws.temperature_R > 0, drawn_R, greedy_R)


def scale(logits_RV: Tensor, temperature_R: Tensor) -> Tensor:
    """logits / temperature in float64; greedy rows as they are."""
    divisor_R = torch.where(temperature_R > 0, temperature_R, 1.0).double()
    return logits_RV.double() / divisor_R[:, None]


def allowed(scaled_RV: Tensor, draws: Draws) -> Tensor:
    """Which tokens min_p, then top_k, then top_p leave: bool [R, V].

    min_p keeps probabilities of at least min_p times the largest; top_k the k most likely; top_p
    the fewest most likely ones whose share of what is left reaches top_p.
    """
    allowed_RV = torch.ones_like(scaled_RV, dtype=torch.bool)
    if draws.min_p_R is not None:
        largest_R1 = scaled_RV.max(-1, keepdim=True).values
        allowed_RV = scaled_RV >= largest_R1 + draws.min_p_R.double().log()[:, None]
    if draws.top_k_R is None and draws.top_p_R is None:
        return allowed_RV
    left_RV = scaled_RV.masked_fill(~allowed_RV, float("-inf"))
    order = left_RV.sort(dim=-1, descending=True, stable=True)
    kept_RV = leading(order.values, draws)
    return allowed_RV & torch.zeros_like(kept_RV).scatter(1, order.indices, kept_RV)


def leading(sorted_RC: Tensor, draws: Draws, rest_R1: Tensor | float = 0.0) -> Tensor:
    """Which of a row's likeliest tokens top_k, then top_p leave: bool [R, C].

    sorted_RC: their scaled logits in falling order. rest_R1: the sum of exp(scaled - largest) over
    tokens after those C that top_k leaves.
    """
    kept_RC = torch.ones_like(sorted_RC, dtype=torch.bool)
    if draws.top_k_R is not None:
        place_C = torch.arange(sorted_RC.shape[1], device=sorted_RC.device)
        kept_RC = (place_C < draws.top_k_R[:, None]) | (draws.top_k_R <= 0)[:, None]
    if draws.top_p_R is not None:
        weight_RC = (sorted_RC - sorted_RC[:, :1]).exp().masked_fill(~kept_RC, 0)
        before_RC = weight_RC.cumsum(-1) - weight_RC
        top_p_R1 = draws.top_p_R.double()[:, None]
        wanted_R1 = top_p_R1 * (weight_RC.sum(-1, keepdim=True) + rest_R1)
        kept_RC = kept_RC & ((before_RC < wanted_R1) | (top_p_R1 >= 1))
        kept_RC[:, 0] = True
    return kept_RC


def key(seed: int, choice: int, position: int) -> int:
    """The signed 64-bit key of one draw: the three numbers mixed one after another."""
    return _signed(_mix((_start(seed, choice) + position + _STEP) & _MASK))


@lru_cache(maxsize=4096)
def _start(seed: int, choice: int) -> int:
    """What the keys of one sequence begin with, as each of its draws asks again."""
    return _mix((_mix((seed + _STEP) & _MASK) + choice + _STEP) & _MASK)


def gumbel(keys_R: Tensor, tokens: Tensor) -> Tensor:
    """Standard Gumbel noise of every key with tokens [C] or [R, C]: -log(-log(u)), float64 [R, C].

    Token t's bits are output t of the SplitMix64 generator seeded with the key (Steele, Lea and
    Flood 2014). u lies in the middle of the interval that the top 52 bits name, so that it is exact
    and never 0 or 1.
    """
    bits = splitmix64(keys_R[:, None] + (tokens + 1) * _signed(_STEP))
    u = (_shift(bits, 12).double() + 0.5) * 2.0**-52
    return -torch.log(-torch.log(u))


def splitmix64(state: Tensor) -> Tensor:
    """SplitMix64's output for a state: Stafford's 64-bit finalizer, variant 13. int64, wrapping."""
    state = (state ^ _shift(state, 30)) * _signed(_FACTORS[0])
    state = (state ^ _shift(state, 27)) * _signed(_FACTORS[1])
    return state ^ _shift(state, 31)


def _mix(state: int) -> int:
    """`splitmix64` of one unsigned number on the host."""
    state = ((state ^ (state >> 30)) * _FACTORS[0]) & _MASK
    state = ((state ^ (state >> 27)) * _FACTORS[1]) & _MASK
    return state ^ (state >> 31)


def _shift(bits: Tensor, count: int) -> Tensor:
    """Logical shift to the right; torch's own on int64 copies the sign."""
    shifted: Tensor = (bits >> count) & (2 ** (64 - count) - 1)
    return shifted


def _signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number
