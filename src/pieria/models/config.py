"""What a model is, as data: layers may differ, and no forward code asks which one it is in.

Knows shapes and switches. Does not know files, families or devices; a family's `from_hf` makes
these.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

RopeScaling = Literal["none", "linear", "ntk", "llama3", "yarn"]

MAX_EXPERTS = 65536
MAX_ROPE_DIMENSIONS = 65536
"""What is bounded is laid out before anything is read."""


@dataclass(frozen=True)
class Rope:
    """Rotary embedding of dimension pairs, turned by position * theta^(-2i/dim), then scaled.

    dim: rotated dimensions of a head, the first ones. interleaved: pairs are (0, 1), (2, 3), ...;
    else (0, dim/2), (1, dim/2 + 1), ... What scaling does with `factor`:
    linear: every frequency is divided by it (arXiv:2306.15595);
    ntk: theta grows by factor^(dim/(dim-2));
    llama3: low frequencies are divided, high ones kept, and those between blended (the Llama 3.1
    model card's reference code);
    yarn: the same with a ramp between beta_fast and beta_slow rotations over `original_context`
    tokens, rounded to whole dimensions if `truncate` (arXiv:2309.00071).
    factors: per-frequency divisors that a file states outright; applied instead of a formula.
    magnitude: what cosines and sines are multiplied by.
    """

    theta: float
    dim: int
    scaling: RopeScaling = "none"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    factors: tuple[float, ...] = ()
    magnitude: float = 1.0
    interleaved: bool = False

    def __post_init__(self) -> None:
        if self.theta <= 1:
            raise ValueError(f"theta={self.theta} must be above 1")
        if self.scaling == "ntk" and self.dim <= 2:
            raise ValueError(f"dim={self.dim} must be above 2 where scaling is ntk")
        if self.scaling == "llama3" and self.low_freq_factor >= self.high_freq_factor:
            raise ValueError(
                f"low_freq_factor={self.low_freq_factor} must be below"
                f" high_freq_factor={self.high_freq_factor}"
            )


@dataclass(frozen=True)
class NormConfig:
    """RMS norm. eps_outside: eps is added to the root mean square, not under the root.

    offset: added to the weight as stored. centered: layer norm instead, with a bias.
    """

    eps: float
    eps_outside: bool = False
    offset: float = 0.0
    centered: bool = False


@dataclass(frozen=True)
class AttentionConfig:
    """Grouped-query attention.

    window: how many tokens back a token sees, itself included; None: all. soft_cap: scores become
    cap * tanh(score / cap). scale: what q.k is multiplied by. qk_norm: of each head's q and k,
    before the rope. rope None: no positions. causal: else a token sees its whole sequence, and
    nothing can be remembered of it. sinks: of each head, see `ops.attention`. gated: what heads
    give is multiplied by the sigmoid of as much that is made from what attention is given (Qiu et
    al. 2025, arXiv:2505.06708).
    """

    heads: int
    kv_heads: int
    head_dim: int
    rope: Rope | None
    scale: float
    qkv_bias: bool = False
    out_bias: bool = False
    window: int | None = None
    soft_cap: float | None = None
    qk_norm: NormConfig | None = None
    causal: bool = True
    sinks: bool = False
    gated: bool = False


@dataclass(frozen=True)
class LatentConfig:
    """Multi-head latent attention: keys and values of all heads are made from one latent a token.

    q_rank: of the latent that queries are made from; None: they are made from the hidden state.
    kv_rank: of the latent that is remembered, beside rope.dim key dimensions that all heads share.
    nope_dim: a head's query and key dimensions without positions; v_dim: its value's.
    norm: of both latents. bias: of what makes the latents and of the output, not of the heads.
    """

    heads: int
    q_rank: int | None
    kv_rank: int
    nope_dim: int
    v_dim: int
    rope: Rope
    scale: float
    norm: NormConfig
    bias: bool = False


@dataclass(frozen=True)
class DeltaConfig:
    """The gated delta rule: for each of `heads` a state of key_dim x value_dim (`ops.gated_delta`).

    key_heads: of queries and keys, each shared by neighbouring heads. taps: tokens that the short
    convolution before it sees. norm: of what each head gives, before its gate.
    """

    heads: int
    key_heads: int
    key_dim: int
    value_dim: int
    taps: int
    norm: NormConfig
    rope: ClassVar[None] = None


@dataclass(frozen=True)
class MlpConfig:
    """down(activation(gate(x)) * up(x)).

    Activation "gelu_tanh" is the tanh approximation of gelu.
    """

    size: int
    activation: Literal["silu", "gelu", "gelu_tanh"]
    bias: bool = False


@dataclass(frozen=True)
class FeedForwardConfig:
    """down(gelu(up(x))), both with biases. tanh: the tanh approximation of gelu."""

    size: int
    tanh: bool = False


@dataclass(frozen=True)
class MoeConfig:
    """A mixture of experts: each token goes through the `top` of `experts` that a router chooses.

    size: features inside an expert. score, renormalise, scale, groups, top_groups, group_score: see
    `ops.route`. selection_bias: the router has one that only choices see. router_bias: of its
    logits. activation, limit, slope: see `ops.experts`. bias: of the experts.
    shared: a network that every token goes through besides; shared_gate: what it gives is
    multiplied by the sigmoid of one logit of the token.
    """

    experts: int
    top: int
    size: int
    score: Literal["softmax", "sigmoid", "twin"] = "softmax"
    renormalise: bool = True
    scale: float = 1.0
    groups: int = 1
    top_groups: int = 1
    group_score: Literal["max", "top2"] = "max"
    selection_bias: bool = False
    router_bias: bool = False
    activation: Literal["silu", "gelu", "gelu_tanh", "clamped"] = "silu"
    limit: float | None = None
    slope: float | None = None
    bias: bool = False
    shared: MlpConfig | None = None
    shared_gate: bool = False

    def __post_init__(self) -> None:
        if self.experts > MAX_EXPERTS:
            raise ValueError(f"experts={self.experts} must be at most {MAX_EXPERTS}")
        in_group, rest = divmod(self.experts, self.groups)
        least = 2 if self.group_score == "top2" and self.groups > 1 else 1
        if rest or in_group < least:
            raise ValueError(
                f"experts={self.experts} do not divide into groups={self.groups} of {least} or more"
            )
        if not 1 <= self.top_groups <= self.groups:
            raise ValueError(f"top_groups={self.top_groups} must be in 1..{self.groups}")
        if not 1 <= self.top <= in_group * self.top_groups:
            raise ValueError(f"top={self.top} must be in 1..{in_group * self.top_groups}")
        if self.score == "twin" and self.top != 2:
            raise ValueError(f"top={self.top} must be 2 where experts are twins")
        for name in ("limit", "slope"):
            if (getattr(self, name) is None) == (self.activation == "clamped"):
                raise ValueError(
                    f"activation={self.activation!r} does not go with {name}={getattr(self, name)}"
                )
        if self.shared is not None and self.shared.bias:
            raise ValueError(f"shared={self.shared} must have no bias")
        if self.shared_gate and self.shared is None:
            raise ValueError("shared_gate is set, and shared is not")


@dataclass(frozen=True)
class LayerConfig:
    """post_norms: what mixer and mlp give is normed once more before it is added.

    norms_last: nothing is normed but the sum of what a mixer or mlp gets and what it gives.
    """

    mixer: AttentionConfig | LatentConfig | DeltaConfig
    mlp: MlpConfig | FeedForwardConfig | MoeConfig
    norm: NormConfig
    post_norms: bool = False
    norms_last: bool = False


@dataclass(frozen=True)
class ModelConfig:
    """A decoder or encoder, complete. context: the longest sequence it was trained for, in tokens.

    norm: of the last layer's output; None: that is normed already. generates: hidden states can be
    turned into logits of the next token. embed_scale: what embeddings are multiplied by.
    learned_positions: each of the `context` places has a vector, which is added to embeddings.
    token_types: so has each kind of token; here all are of the first kind. embed_norm: of that sum.
    logit_soft_cap: logits become cap * tanh(logit / cap).
    """

    family: str
    hidden: int
    vocabulary: int
    context: int
    layers: tuple[LayerConfig, ...]
    norm: NormConfig | None
    tied: bool
    generates: bool = True
    embed_scale: float | None = None
    learned_positions: bool = False
    token_types: int = 0
    embed_norm: NormConfig | None = None
    logit_soft_cap: float | None = None

    def __post_init__(self) -> None:
        for i, layer in enumerate(self.layers):
            a = layer.mixer
            if isinstance(a, LatentConfig):
                kv_heads, size = 1, a.rope.dim
            elif isinstance(a, DeltaConfig):
                kv_heads, size = a.key_heads, a.key_dim
            else:
                kv_heads, size = a.kv_heads, a.head_dim
            if a.heads % kv_heads:
                raise ValueError(
                    f"layer {i}: {a.heads} attention heads do not divide over {kv_heads} key heads"
                )
            most = min(size, MAX_ROPE_DIMENSIONS)
            if a.rope is not None and (a.rope.dim > most or a.rope.dim % 2):
                raise ValueError(f"layer {i}: rope of {a.rope.dim} dimensions in heads of {size}")
