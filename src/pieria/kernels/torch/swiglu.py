"""The SiLU-gated unit without copies in float32: torch's silu computes wide inside, then rounds."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pieria import ops


def _supports(gate_TF: Tensor, up_TF: Tensor) -> bool:
    return gate_TF.dtype in (torch.float16, torch.bfloat16)


@ops.swiglu.implement(supports=_supports, differentiable=True)
def swiglu(gate_TF: Tensor, up_TF: Tensor) -> Tensor:
    return F.silu(gate_TF) * up_TF
