"""The gated delta rule, the same code for chunks of a prompt and for single tokens."""

import torch
from torch import Tensor

from pieria import ops
from pieria.kernels.cpu import native
from pieria.ops import Slots

_gated_delta = native.kernel("gated_delta", "qPqPqPqPPPPPPqqqqqdP")


def _dense(x_TGK: Tensor) -> bool:
    """Whether a token's numbers lie side by side."""
    return x_TGK.stride(2) == 1 and x_TGK.stride(1) == x_TGK.shape[2]


def _supports(
    q_TGK: Tensor,
    k_TGK: Tensor,
    v_THV: Tensor,
    decay_TH: Tensor,
    beta_TH: Tensor,
    state_SHKV: Tensor,
    slots: Slots,
    *,
    scale: float,
) -> bool:
    wide = decay_TH, beta_TH, state_SHKV
    return (
        q_TGK.dtype == k_TGK.dtype == v_THV.dtype
        and q_TGK.dtype in native.DTYPES
        and all(_dense(x) for x in (q_TGK, k_TGK, v_THV))
        and all(x.dtype == torch.float32 and x.is_contiguous() for x in wide)
    )


@ops.gated_delta.implement(supports=_supports, batch_invariant=True)
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
    """A request whose slot to write is -1 leaves its state nowhere."""
    out_THV = v_THV.new_empty(v_THV.shape)
    _gated_delta(
        native.DTYPES[q_TGK.dtype],
        *(value for x in (q_TGK, k_TGK, v_THV) for value in (x.data_ptr(), x.stride(0))),
        *(x.data_ptr() for x in (decay_TH, beta_TH, state_SHKV)),
        *(x.data_ptr() for x in (slots.reads_R, slots.writes_R, slots.starts_R1)),
        *(len(slots.reads_R), q_TGK.shape[1], *state_SHKV.shape[1:]),
        *(scale, out_THV.data_ptr()),
    )
    return out_THV
