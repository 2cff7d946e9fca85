"""The short convolution as a sum of shifted products, requests of one length at a time.

B requests of L tokens; else letters as in `ops.causal_conv`.
"""

from collections.abc import Iterator
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from pieria import ops
from pieria.ops import Slots, widen

Index = slice | list[int]


@ops.causal_conv.implement()
def causal_conv(x_TC: Tensor, weight_CW: Tensor, state_SPC: Tensor, slots: Slots) -> Tensor:
    weight_WC = widen(weight_CW).T.contiguous()
    before_RPC = slots.before(state_SPC)
    out_TC = torch.empty_like(x_TC)
    for length, requests, rows in _by_length(slots.lengths):
        x_BLC = x_TC[rows].view(-1, length, x_TC.shape[1])
        seen = torch.cat([before_RPC[requests].to(x_TC.dtype), x_BLC], 1)
        wide = widen(seen)
        y_BLC = wide[:, :length] * weight_WC[0]
        for w, weight_C in enumerate(weight_WC[1:], 1):
            y_BLC.addcmul_(wide[:, w : w + length], weight_C)
        out_TC[rows] = F.silu(y_BLC, inplace=True).view(-1, x_TC.shape[1]).to(x_TC.dtype)
        state_SPC[slots.writes_R[requests]] = seen[:, length:].to(state_SPC.dtype)
    return out_TC


def _by_length(lengths: tuple[int, ...]) -> Iterator[tuple[int, Index, Index]]:
    """(length, requests, their rows) of each length that occurs."""
    if len(set(lengths)) == 1:
        yield lengths[0], slice(None), slice(None)
        return
    starts = list(accumulate(lengths, initial=0))
    for length in sorted(set(lengths)):
        requests = [r for r, n in enumerate(lengths) if n == length]
        yield length, requests, [t for r in requests for t in range(starts[r], starts[r + 1])]
