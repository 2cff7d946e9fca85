"""What a model is, as data: layers may differ from each other, forward code does not ask which one
it is.

Knows shapes and switches. Does not know files, families or devices; a family's `from_hf` makes
these.
"""

from dataclasses import dataclass
from typing import Literal

RopeScaling = Literal["none", "linear", "llama3"]


@dataclass(frozen=True)
class Rope:
    """Rotary embedding: dimension pairs turn by position * frequency, frequency_i =
    theta^(-2i/dim), then scaled.

    dim: rotated dimensions of a head. scaling "linear" divides every frequency by `factor`
    (arXiv:2306.15595); "llama3" divides low ones, keeps high ones and blends between (the Llama 3.1
    model card's reference code). factors: per-frequency divisors that a file states outright;
    applied instead of a formula.
    """

    theta: float
    dim: int
    scaling: RopeScaling = "none"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 0
    factors: tuple[float, ...] = ()


@dataclass(frozen=True)
class AttentionConfig:
    """Grouped-query attention. window: how many tokens back a token sees, itself included; None:
    all.

    soft_cap: scores become cap * tanh(score / cap). scale: what q.k is multiplied by.
    """

    heads: int
    kv_heads: int
    head_dim: int
    rope: Rope
    scale: float
    qkv_bias: bool = False
    out_bias: bool = False
    window: int | None = None
    soft_cap: float | None = None


@dataclass(frozen=True)
class MlpConfig:
    """down(activation(gate(x)) * up(x)).

    Activation "gelu_tanh" is the tanh approximation of gelu.
    """

    size: int
    activation: Literal["silu", "gelu", "gelu_tanh"]
    bias: bool = False


@dataclass(frozen=True)
class NormConfig:
    """RMS norm. eps_outside: eps is added to the root mean square, not under the root."""

    eps: float
    eps_outside: bool = False


@dataclass(frozen=True)
class LayerConfig:
    attention: AttentionConfig
    mlp: MlpConfig
    norm: NormConfig


@dataclass(frozen=True)
class ModelConfig:
    """A decoder, complete. context: the longest sequence it was trained for, in tokens."""

    family: str
    hidden: int
    vocabulary: int
    context: int
    layers: tuple[LayerConfig, ...]
    norm: NormConfig
    tied: bool

    def __post_init__(self) -> None:
        for i, layer in enumerate(self.layers):
            a = layer.attention
            if a.heads % a.kv_heads:
                raise ValueError(
                    f"layer {i}: {a.heads} attention heads do not divide over {a.kv_heads} key heads"
                )
            if a.rope.dim > a.head_dim or a.rope.dim % 2:
                raise ValueError(
                    f"layer {i}: rope of {a.rope.dim} dimensions in heads of {a.head_dim}"
                )
