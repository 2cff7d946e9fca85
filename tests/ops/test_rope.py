"""Angles and turns against those of transformers' Llama."""

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from pieria import ops


def test_angles_and_turns_are_those_of_transformers() -> None:
    theta, heads, size, tokens = 10_000.0, 3, 16, 40
    config = LlamaConfig(
        hidden_size=heads * size,
        num_attention_heads=heads,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        rope_theta=theta,
    )
    positions_T = torch.randperm(200, generator=torch.Generator().manual_seed(0))[:tokens]
    x_THK = torch.randn(tokens, heads, size, generator=torch.Generator().manual_seed(1))
    cos, sin = LlamaRotaryEmbedding(config)(x_THK, positions_T[None])
    want, _ = apply_rotary_pos_emb(x_THK, x_THK, cos[0], sin[0])

    frequencies_R = theta ** (-torch.arange(0, size, 2) / size)
    cos_TR, sin_TR = ops.rotary(positions_T, frequencies_R)
    torch.testing.assert_close(cos_TR, cos[0, :, : size // 2])
    torch.testing.assert_close(sin_TR, sin[0, :, : size // 2])
    got_THK = ops.rope(x_THK, cos_TR, sin_TR)
    torch.testing.assert_close(got_THK, want)


def test_dimensions_that_do_not_turn_stay_bit_for_bit() -> None:
    x_THK = torch.randn(5, 2, 10).bfloat16()
    angle_TR = torch.randn(5, 3)
    got_THK = ops.rope(x_THK, angle_TR.cos(), angle_TR.sin())
    assert torch.equal(got_THK[..., 6:], x_THK[..., 6:])
    whole = ops.rope(x_THK[..., :6], angle_TR.cos(), angle_TR.sin())
    assert torch.equal(got_THK[..., :6], whole)


def test_products_depend_on_distance_alone() -> None:
    """What rotary embedding is for."""
    q, k = torch.randn(2, 1, 1, 8, dtype=torch.float64)
    frequencies_R = torch.tensor([1.0, 0.3, 0.1, 0.01], dtype=torch.float64)

    def product(at: int, other: int) -> float:
        turned = [
            ops.rope(x, *ops.rotary(torch.tensor([p]), frequencies_R))
            for x, p in ((q, at), (k, other))
        ]
        return (turned[0] * turned[1]).sum().item()

    assert product(5, 2) == pytest.approx(product(105, 102), rel=1e-9)
    assert product(5, 2) != pytest.approx(product(5, 3), rel=1e-3)
