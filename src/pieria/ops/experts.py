"""Gated feed-forward networks, of which each token uses some (arXiv:1701.06538).

T tokens, E experts held here, A experts of a token, D features, F features inside an expert;
N tokens of one expert.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from pieria.ops.geglu import geglu
from pieria.ops.op import Backward, Case, Cost, Inputs, nbytes, op, wide_bytes, widen
from pieria.ops.swiglu import swiglu
from pieria.ops.weight import Weight, dense, product, unbind

Activation = Literal["silu", "gelu", "gelu_tanh", "clamped"]


@op
def experts(
    x_TD: Tensor,
    weights_TA: Tensor,
    experts_TA: Tensor,
    gate_EFD: Tensor | Weight,
    up_EFD: Tensor | Weight,
    down_EDF: Tensor | Weight,
    gate_bias_EF: Tensor | None = None,
    up_bias_EF: Tensor | None = None,
    down_bias_ED: Tensor | None = None,
    *,
    activation: Activation,
    limit: float | None = None,
    slope: float | None = None,
    first: int = 0,
    total: int | None = None,
) -> Tensor:
    """y_TD = sum_A weights_TA * down(activation(gate(x), up(x))) of experts_TA.

    A token's experts are added in their order in its list, in float32 or wider, so that no other
    token changes the sum. Here are experts [first, first + E) of `total` (None: E); others add
    nothing. weights_TA: float32 or wider.
    activation: silu(gate) * up, gelu or its tanh approximation likewise, or "clamped", g *
    sigmoid(slope * g) * (u + 1) with g = min(gate, limit) and u = up clamped to +-limit (gpt-oss,
    arXiv:2508.10925).
    """
    per_expert = tuple(
        zip(
            *(unbind(w) for w in (gate_EFD, up_EFD, down_EDF)),
            *(_unbind(b, len(gate_EFD)) for b in (gate_bias_EF, up_bias_EF, down_bias_ED)),
            strict=True,
        )
    )

    def network(expert: int, x_ND: Tensor) -> Tensor:
        gate_FD, up_FD, down_DF, gate_bias_F, up_bias_F, down_bias_D = per_expert[expert]
        gate_NF, up_NF = product(x_ND, gate_FD, gate_bias_F), product(x_ND, up_FD, up_bias_F)
        hidden_NF = activated(gate_NF, up_NF, activation, limit, slope)
        return product(hidden_NF, down_DF, down_bias_D)

    return routed(x_TD, weights_TA, experts_TA, first, len(gate_EFD), network)


def routed(
    x_TD: Tensor,
    weights_TA: Tensor,
    experts_TA: Tensor,
    first: int,
    count: int,
    network: Callable[[int, Tensor], Tensor],
) -> Tensor:
    """The sum of what experts' networks, of which `count` are here, make of their tokens."""
    token_N, counts, place_TA = _sorted(experts_TA, first, count)
    parts = enumerate(torch.split(token_N, counts))
    made = [network(expert, x_TD[token_N]) for expert, token_N in parts if len(token_N)]
    # The row behind the last is what an expert that is not here adds.
    made_ND = torch.cat([*made, x_TD.new_zeros(1, x_TD.shape[1])])
    y_TD = torch.zeros_like(widen(x_TD))
    for place_T, weight_T in zip(place_TA.unbind(1), weights_TA.unbind(1), strict=True):
        y_TD = y_TD + widen(made_ND[place_T]) * weight_T.unsqueeze(-1)
    return y_TD.to(x_TD.dtype)


def _sorted(experts_TA: Tensor, first: int, count: int) -> tuple[Tensor, list[int], Tensor]:
    """The (token, expert) pairs that are here, by expert.

    Their tokens; the number of pairs of each expert; each pair's place among them, which is their
    number for one that is not here.
    """
    local_N = experts_TA.flatten() - first
    local_N = local_N.masked_fill((local_N < 0) | (local_N >= count), count)
    order_N = local_N.argsort(stable=True)
    counts: list[int] = local_N.bincount(minlength=count + 1).tolist()
    here = len(local_N) - counts.pop()
    place_TA = order_N.argsort().clamp(max=here).view_as(experts_TA)
    return order_N[:here] // experts_TA.shape[1], counts, place_TA


def _unbind(stack: Tensor | None, count: int) -> tuple[Tensor | None, ...]:
    """One for each expert. A gradient of the whole is then made once, not for each of them."""
    return (None,) * count if stack is None else stack.unbind(0)


def activated(
    gate_NF: Tensor,
    up_NF: Tensor,
    activation: Activation,
    limit: float | None,
    slope: float | None,
) -> Tensor:
    if activation == "silu":
        return swiglu.reference(gate_NF, up_NF)
    if activation != "clamped":
        return geglu.reference(gate_NF, up_NF, activation == "gelu_tanh")
    assert limit is not None and slope is not None
    clamped_NF = widen(gate_NF).clamp(max=limit)
    open_NF = clamped_NF * torch.sigmoid(slope * clamped_NF)
    return (open_NF * (widen(up_NF).clamp(-limit, limit) + 1)).to(gate_NF.dtype)


experts.weights = ("gate_EFD", "up_EFD", "down_EDF")


@experts.shapes
def _(x_TD: Tensor, *rest: Any, **options: Any) -> Tensor:
    return torch.empty_like(x_TD)


def _average(experts_TA: Tensor, gate_EFD: Tensor | Weight, total: int | None) -> tuple[int, float]:
    """(pairs that are here, experts that any token uses) where every expert is chosen as often."""
    tokens, top = experts_TA.shape
    here, everywhere = len(gate_EFD), total or len(gate_EFD)
    return tokens * top * here // everywhere, here * (1 - (1 - top / everywhere) ** tokens)


@experts.cost
def _(
    out: Tensor,
    x_TD: Tensor,
    weights_TA: Tensor,
    experts_TA: Tensor,
    gate_EFD: Tensor | Weight,
    up_EFD: Tensor | Weight,
    down_EDF: Tensor | Weight,
    *biases: Tensor | None,
    total: int | None = None,
    **options: Any,
) -> Cost:
    """The three matrix products; weights of experts that no token uses are not read."""
    pairs, used = _average(experts_TA, gate_EFD, total)
    parameters = (gate_EFD, up_EFD, down_EDF, *biases)
    return Cost(
        flops=6 * pairs * gate_EFD.numel() // len(gate_EFD),
        bytes=nbytes(x_TD, weights_TA, experts_TA, out)
        + round(used * nbytes(*parameters) / len(gate_EFD)),
    )


@experts.backward
def _(
    out: Tensor,
    x_TD: Tensor,
    weights_TA: Tensor,
    experts_TA: Tensor,
    gate_EFD: Tensor | Weight,
    up_EFD: Tensor | Weight,
    down_EDF: Tensor | Weight,
    *biases: Tensor | None,
    activation: Activation,
    total: int | None = None,
    **options: Any,
) -> Backward:
    """Of an average batch; every expert's gradient is written, also of one that no token uses."""
    pairs, used = _average(experts_TA, gate_EFD, total)
    matrices = nbytes(gate_EFD, up_EFD, down_EDF)
    wide, narrow = wide_bytes(x_TD), x_TD.element_size()
    # What enters the products; what the activation multiplies, or clamps.
    inside = wide + 3 * narrow if activation != "clamped" else 6 * wide + narrow
    return Backward(
        Cost(
            flops=12 * pairs * gate_EFD.numel() // len(gate_EFD),
            bytes=nbytes(x_TD, weights_TA, experts_TA, out, *biases)
            + nbytes(x_TD, weights_TA)
            + round(matrices * (1 + used / len(gate_EFD))),
        ),
        saved=(weights_TA, dense(gate_EFD), dense(up_EFD), dense(down_EDF)),
        # Also what each pair gave, and the places that were gathered from.
        extra_bytes=pairs * (x_TD.shape[1] * narrow + gate_EFD.shape[1] * inside + 8)
        + experts_TA.numel() * (x_TD.shape[1] * wide + 8),
    )


@experts.row
def _(
    i: int, x_TD: Tensor, weights_TA: Tensor, experts_TA: Tensor, *rest: Any, **options: Any
) -> tuple[Any, ...]:
    row = slice(i, i + 1)
    return x_TD[row], weights_TA[row], experts_TA[row], *rest


@experts.cases
def _(make: Inputs) -> Iterator[Case]:
    def case(
        name: str,
        tokens: int,
        top: int,
        sizes: tuple[int, int, int],
        biases: bool = False,
        bench: bool = False,
        **options: Any,
    ) -> Case:
        """Every expert is chosen as often as any other, if the sizes let it be."""
        here, inside, outside = sizes
        total = options.get("total", here)
        turns = [make.permutation(total) for _ in range(-(-tokens * top // total))]
        x_TD, weights_TA = make.normal(tokens, outside), widen(make.normal(tokens, top)).softmax(-1)
        into, out = (here, inside, outside), (here, outside, inside)
        matrices = [make.normal(*shape, scale=shape[-1] ** -0.5) for shape in (into, into, out)]
        vectors = [make.normal(*shape[:2]) for shape in (into, into, out)]
        chosen_TA = torch.cat(turns)[: tokens * top].view(tokens, top)
        arguments = (x_TD, weights_TA, chosen_TA, *matrices, *(vectors if biases else ()))
        keywords = {"activation": "silu", **options}
        return Case(name, arguments, keywords, max(inside, outside), bench)

    yield case("tiny", 2, 1, (2, 2, 3))
    yield case("silu", 9, 4, (12, 24, 16))
    yield case("gelu", 4, 3, (3, 16, 8), activation="gelu")
    yield case("gelu_tanh", 6, 2, (4, 16, 8), activation="gelu_tanh")
    clamped: dict[str, Any] = {"activation": "clamped", "limit": 0.7, "slope": 1.702}
    yield case("clamped, biases", 8, 2, (4, 24, 16), True, **clamped)
    yield case("some are elsewhere", 12, 2, (2, 16, 24), True, first=4, total=8)
    yield case("one token", 1, 4, (16, 8, 24))
    yield case("48, 4 of 32 of 192x512", 48, 4, (32, 192, 512), bench=True)
    for tokens in (1, 32, 512):
        yield case(f"{tokens}, 8 of 64 of 384x1024", tokens, 8, (64, 384, 1024), bench=True)
