"""The gated delta rule: a matrix for each head and request, which tokens decay, correct and read.

Source: Yang et al. 2024, arXiv:2412.06464.

T tokens of R requests side by side, G key heads, H value heads, each key head shared by H/G
neighbouring value heads, K and V dimensions of a head, S slots.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pieria.ops.op import Backward, Case, Cost, Inputs, nbytes, op, wide_bytes, widen
from pieria.ops.slots import Slots, some_slots

EPS = 1e-6
"""Added to the squared length of q and k."""


@op
def gated_delta(
    q_TGK: Tensor,
    k_TGK: Tensor,
    v_THV: Tensor,
    decay_TH: Tensor,
    beta_TH: Tensor,
    state_SHKV: Tensor,
    slots: Slots,
    *,
    scale: float,
) -> Tensor:
    """y_THV = M^T q of each head's matrix M_KV, which a token changes first:

    M = exp(decay) M;  M = M + k (beta (v - M^T k))^T

    in float32 or wider, with q and k of length `scale` and 1. M goes from token to token of a
    request, from its state to its state. decay_TH: not above 0; beta_TH: from 0 to 1. Both, and
    state_SHKV: float32 or wider.
    """
    shared = v_THV.shape[1] // q_TGK.shape[1]
    q_THK = (unit(q_TGK) * scale).repeat_interleave(shared, 1)
    k_THK = unit(k_TGK).repeat_interleave(shared, 1)
    tokens = (q_THK, k_THK, widen(v_THV), decay_TH.exp(), beta_TH)
    requests = zip(*(torch.split(x, list(slots.lengths)) for x in tokens), strict=True)
    made, left = [], []
    for request, m_HKV in zip(requests, widen(slots.before(state_SHKV)), strict=True):
        for q_HK, k_HK, v_HV, kept_H, beta_H in zip(*request, strict=True):
            m_HKV = m_HKV * kept_H[:, None, None]
            wrong_HV = v_HV - (m_HKV * k_HK[:, :, None]).sum(1)
            m_HKV = m_HKV + k_HK[:, :, None] * (beta_H[:, None] * wrong_HV)[:, None]
            made.append((m_HKV * q_HK[:, :, None]).sum(1))
        left.append(m_HKV)
    state_SHKV[slots.writes_R] = torch.stack(left).detach().to(state_SHKV.dtype)
    return torch.stack(made).to(v_THV.dtype)


def unit(x: Tensor) -> Tensor:
    """x / sqrt(sum(x^2) + eps) over the last dimension, in float32 or wider."""
    wide = widen(x)
    return wide * torch.rsqrt((wide * wide).sum(-1, keepdim=True) + EPS)


gated_delta.writes = ("state_SHKV",)


@gated_delta.shapes
def _(q_TGK: Tensor, k_TGK: Tensor, v_THV: Tensor, *rest: Any, **options: Any) -> Tensor:
    return torch.empty_like(v_THV)


@gated_delta.cost
def _(
    out: Tensor,
    q_TGK: Tensor,
    k_TGK: Tensor,
    v_THV: Tensor,
    decay_TH: Tensor,
    beta_TH: Tensor,
    state_SHKV: Tensor,
    slots: Slots,
    *,
    scale: float,
) -> Cost:
    """As the formula says, token by token."""
    return Cost(
        flops=7 * v_THV.numel() * q_TGK.shape[2],
        bytes=nbytes(q_TGK, k_TGK, v_THV, decay_TH, beta_TH, out) + slots.nbytes(state_SHKV),
    )


@gated_delta.backward
def _(
    out: Tensor,
    q_TGK: Tensor,
    k_TGK: Tensor,
    v_THV: Tensor,
    decay_TH: Tensor,
    beta_TH: Tensor,
    state_SHKV: Tensor,
    slots: Slots,
    *,
    scale: float,
) -> Backward:
    wide = wide_bytes(q_TGK)
    is_wide = q_TGK.element_size() == wide
    (tokens, heads, v_size), (groups, size) = v_THV.shape, q_TGK.shape[1:]
    read = (q_TGK, k_TGK, v_THV, decay_TH, beta_TH)
    # Two matrices a token and the one before, what was wrong and what corrects it, decays, q and k
    # as each head has them, their lengths, and copies of what had to be widened.
    matrices = (2 * tokens + len(slots.lengths)) * heads * size * v_size
    vectors = tokens * heads * (2 * v_size + 1 + 2 * size) + 2 * tokens * groups
    copies = 0 if is_wide else 2 * q_TGK.numel()
    return Backward(
        Cost(flops=14 * v_THV.numel() * size, bytes=2 * nbytes(*read) + nbytes(out)),
        saved=(q_TGK, k_TGK, beta_TH) if is_wide else (beta_TH,),
        extra_bytes=wide * (matrices + vectors + copies),
    )


@gated_delta.row
def _(
    i: int,
    q_TGK: Tensor,
    k_TGK: Tensor,
    v_THV: Tensor,
    decay_TH: Tensor,
    beta_TH: Tensor,
    state_SHKV: Tensor,
    slots: Slots,
    **options: Any,
) -> tuple[Any, ...]:
    tokens, slots = slots.token(i)
    read = (q_TGK, k_TGK, v_THV, decay_TH, beta_TH)
    return *(x[tokens] for x in read), state_SHKV, slots


@gated_delta.cases
def _(make: Inputs) -> Iterator[Case]:
    def case(
        name: str,
        lengths: tuple[int, ...],
        sizes: tuple[int, int, int, int],
        fresh: tuple[int, ...] = (),
        forgets: float = 0.3,
        bench: bool = False,
    ) -> Case:
        tokens, (groups, heads, size, v_size) = sum(lengths), sizes
        arguments = (
            make.normal(tokens, groups, size),
            make.normal(tokens, groups, size),
            make.normal(tokens, heads, v_size),
            widen(-forgets * make.normal(tokens, heads).abs()),
            widen(make.normal(tokens, heads).sigmoid()),
            widen(make.normal(2 * len(lengths), heads, size, v_size)),
            some_slots(make, lengths, fresh),
        )
        # Errors of earlier tokens stay in the matrix.
        reduction = size * max(lengths)
        return Case(name, arguments, {"scale": size**-0.5}, reduction, bench)

    yield case("tiny", (2, 1), (1, 2, 2, 2), fresh=(0, 1))
    yield case("single tokens", (1, 1, 1), (2, 4, 16, 8), fresh=(1,))
    yield case("chunks", (64, 65, 1, 130), (1, 2, 12, 16), fresh=(1,))
    yield case("begins", (100,), (3, 3, 16, 8), fresh=(0,))
    yield case("forgets at once", (70,), (2, 4, 8, 8), forgets=60.0)
    yield case("forgets nothing", (70,), (2, 4, 8, 8), forgets=0.0)
    for requests in (1, 32):
        yield case(f"{requests} single tokens", (1,) * requests, (16, 32, 128, 128), bench=True)
    yield case("512", (512,), (16, 32, 128, 128), fresh=(0,), bench=True)
