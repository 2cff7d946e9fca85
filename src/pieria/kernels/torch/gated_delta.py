"""The gated delta rule by matrix products: one token in place, more of them in chunks.

Corrections in a chunk depend on those before them in it, which is a triangular system to solve
(Yang et al. 2024, arXiv:2406.06484, section 3; with decays arXiv:2412.06464, section 3.3).
C tokens of a chunk; else letters as in `ops.gated_delta`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from pieria import ops
from pieria.ops import Slots, widen
from pieria.ops.gated_delta import unit

CHUNK = 64
"""Tokens: fewer make smaller products, more make more of them."""


class Tokens(NamedTuple):
    """The inputs of one call, one request or one chunk, by head.

    q, k: [H, C, K]. v: [H, C, V]. The others: [H, C].
    """

    q: Tensor
    k: Tensor
    v: Tensor
    decay: Tensor
    beta: Tensor

    def some(self, first: int, last: int) -> "Tokens":
        return Tokens(*(x[:, first:last] for x in self))


@ops.gated_delta.implement(differentiable=True)
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
    shared = v_THV.shape[1] // q_TGK.shape[1]
    q_HTK = (unit(q_TGK) * scale).transpose(0, 1).repeat_interleave(shared, 0)
    k_HTK = unit(k_TGK).transpose(0, 1).repeat_interleave(shared, 0)
    v_HTV = widen(v_THV).transpose(0, 1)
    batch = Tokens(q_HTK, k_HTK, v_HTV, decay_TH.T, beta_TH.T)
    # Where autograd records, nothing that it may keep is changed in place.
    recorded = torch.is_grad_enabled()
    made = []
    end = 0
    for length, read, write in zip(slots.lengths, slots.reads, slots.writes, strict=True):
        first, end = end, end + length
        left_HKV = state_SHKV[write]
        before_HKV = state_SHKV[read] if read >= 0 else torch.zeros_like(left_HKV)
        if length == 1 and not recorded:
            made.append(_step(batch.some(first, end), before_HKV, left_HKV))
            continue
        m_HKV = before_HKV.clone()
        for begin in range(first, end, CHUNK):
            y_HCV, m_HKV = _chunk(batch.some(begin, min(begin + CHUNK, end)), m_HKV)
            made.append(y_HCV)
        left_HKV.copy_(m_HKV.detach())
    return torch.cat(made, 1).transpose(0, 1).to(v_THV.dtype)


def _step(token: Tokens, before_HKV: Tensor, left_HKV: Tensor) -> Tensor:
    """y_H1V; M after the token goes to `left_HKV`."""
    torch.mul(before_HKV, token.decay.exp()[:, :, None], out=left_HKV)
    wrong_H1V = token.v - torch.bmm(token.k, left_HKV)
    left_HKV.baddbmm_(token.k.mT, token.beta[:, :, None] * wrong_H1V)
    return torch.bmm(token.q, left_HKV)


def _chunk(tokens: Tokens, m_HKV: Tensor) -> tuple[Tensor, Tensor]:
    """(y_HCV, M after the chunk)."""
    q_HCK, k_HCK, v_HCV, decay_HC, beta_HC = tokens
    count = q_HCK.shape[1]
    later_CC = torch.ones(count, count, dtype=torch.bool, device=q_HCK.device).triu(1)
    # What token i keeps of token j: from the sum of the decays between them, which the difference
    # of sums from the chunk's start would round more.
    between_HCC = decay_HC[:, :, None].masked_fill(~later_CC.T, 0).cumsum(1)
    kept_HCC = between_HCC.masked_fill(later_CC, float("-inf")).exp()
    kept_HC1 = decay_HC.cumsum(1).exp()[:, :, None]
    scaled_HCK = k_HCK * beta_HC[:, :, None]
    system_HCC = (scaled_HCK @ k_HCK.mT) * kept_HCC
    # What the tokens would write if M were zero before the chunk, and what they read of M.
    right_HCX = torch.cat([v_HCV * beta_HC[:, :, None], scaled_HCK * kept_HC1], -1)
    solved_HCX = torch.linalg.solve_triangular(
        system_HCC, right_HCX, upper=False, unitriangular=True
    )
    new_HCV, read_HCK = torch.split(solved_HCX, [v_HCV.shape[2], k_HCK.shape[2]], -1)
    new_HCV = torch.baddbmm(new_HCV, read_HCK, m_HKV, alpha=-1)
    y_HCV = torch.baddbmm((q_HCK * kept_HC1) @ m_HKV, (q_HCK @ k_HCK.mT) * kept_HCC, new_HCV)
    left_HKC = (k_HCK * kept_HCC[:, -1, :, None]).mT
    return y_HCV, torch.baddbmm(m_HKV * kept_HC1[:, -1:], left_HKC, new_HCV)
