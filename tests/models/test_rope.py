"""Frequencies of every scaling against those of transformers, whatever the numbers."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from pieria.models.config import Rope
from pieria.models.keys import Keys
from pieria.models.rope import frequencies

CONTEXT = 512
DIMS = st.sampled_from([4, 6, 16, 64, 128])
THETAS = st.floats(100, 1e7)
FACTORS = st.floats(1.5, 64)


def theirs(dim: int, kind: str, seq_len: int | None = None, **scaling: Any) -> tuple[Tensor, float]:
    config = LlamaConfig(
        hidden_size=2 * dim,
        num_attention_heads=2,
        head_dim=dim,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": kind, **scaling},
    )
    found: tuple[Tensor, float] = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"), seq_len)
    return found


def ours(dim: int, kind: str, **scaling: Any) -> Rope:
    values = {
        "max_position_embeddings": CONTEXT,
        "rope_parameters": {"rope_type": kind, **scaling},
    }
    return Keys(values, "config.json").rope(dim)


def check(found: Rope, wanted: tuple[Tensor, float]) -> None:
    torch.testing.assert_close(frequencies(found), wanted[0], rtol=1e-5, atol=0)
    assert found.magnitude == pytest.approx(wanted[1])


@given(DIMS, THETAS, FACTORS)
def test_linear(dim: int, theta: float, factor: float) -> None:
    scaling = {"rope_theta": theta, "factor": factor}
    check(ours(dim, "linear", **scaling), theirs(dim, "linear", **scaling))


@given(DIMS, THETAS, FACTORS)
def test_ntk(dim: int, theta: float, factor: float) -> None:
    """transformers makes theta grow with the text; over twice the context, by factor + 1."""
    wanted = theirs(dim, "dynamic", 2 * CONTEXT, rope_theta=theta, factor=factor)
    check(ours(dim, "ntk", rope_theta=theta, factor=factor + 1), wanted)


@given(DIMS, THETAS, FACTORS, st.floats(1, 2), st.floats(2.5, 8), st.integers(16, 8192))
def test_llama3(
    dim: int, theta: float, factor: float, low: float, high: float, original: int
) -> None:
    scaling = {
        "rope_theta": theta,
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }
    check(ours(dim, "llama3", **scaling), theirs(dim, "llama3", **scaling))


@settings(max_examples=200)
@given(
    st.fixed_dictionaries(
        {"rope_theta": THETAS, "factor": FACTORS},
        optional={
            "beta_fast": st.floats(4, 64),
            "beta_slow": st.floats(0.5, 3),
            "truncate": st.booleans(),
            "attention_factor": st.floats(0.5, 2),
            "original_max_position_embeddings": st.integers(64, 8192),
        },
    ),
    DIMS,
    st.booleans(),
    st.floats(0.5, 1.5),
)
def test_yarn(scaling: dict[str, Any], dim: int, scales: bool, scale: float) -> None:
    """Also with the two scales by which DeepSeek states the magnitude."""
    if scales:
        scaling = {**scaling, "mscale": scale, "mscale_all_dim": 0.7}
    check(ours(dim, "yarn", **scaling), theirs(dim, "yarn", **scaling))


@pytest.mark.parametrize(
    ("dim", "kind", "scaling", "message"),
    [
        (8, "default", {"rope_theta": 1.0}, "theta=1.0 must be above 1"),
        (8, "yarn", {"rope_theta": 0.5, "factor": 2.0}, "theta=0.5 must be above 1"),
        (2, "ntk", {"factor": 2.0}, "dim=2 must be above 2 where scaling is ntk"),
        (
            8,
            "llama3",
            {
                "factor": 2.0,
                "low_freq_factor": 4.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
            "low_freq_factor=4.0 must be below high_freq_factor=4.0",
        ),
        (8, "dynamic", {"factor": 2.0}, "rope_type='dynamic' is not supported"),
    ],
)
def test_what_has_no_frequencies_is_refused(
    dim: int, kind: str, scaling: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ours(dim, kind, **scaling)
