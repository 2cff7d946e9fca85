"""How much the gated delta rule keeps and how much it corrects at each token."""

import torch
from torch import Tensor

from pieria import ops
from pieria.kernels.cpu import native

_delta_gates = native.kernel("delta_gates", "qPPPPqqPP")


def _supports(forget_TH: Tensor, learn_TH: Tensor, log_H: Tensor, bias_H: Tensor) -> bool:
    return (
        forget_TH.dtype == learn_TH.dtype
        and forget_TH.dtype in native.DTYPES
        and log_H.dtype == bias_H.dtype == torch.float32
        and all(x.is_contiguous() for x in (forget_TH, learn_TH, log_H, bias_H))
    )


@ops.delta_gates.implement(supports=_supports, batch_invariant=True)
def delta_gates(
    forget_TH: Tensor, learn_TH: Tensor, log_H: Tensor, bias_H: Tensor
) -> tuple[Tensor, Tensor]:
    decay_TH, beta_TH = (log_H.new_empty(forget_TH.shape) for _ in range(2))
    _delta_gates(
        native.DTYPES[forget_TH.dtype],
        *(x.data_ptr() for x in (forget_TH, learn_TH, log_H, bias_H)),
        *(*forget_TH.shape, decay_TH.data_ptr(), beta_TH.data_ptr()),
    )
    return decay_TH, beta_TH
