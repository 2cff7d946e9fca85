"""A short convolution over the last tokens of each channel, then SiLU."""

from torch import Tensor

from pieria import ops
from pieria.kernels.cpu import native
from pieria.ops import Slots

_causal_conv = native.kernel("causal_conv", "qPqPPPPPqqqP")


def _supports(x_TC: Tensor, weight_CW: Tensor, state_SPC: Tensor, slots: Slots) -> bool:
    return (
        x_TC.dtype == weight_CW.dtype == state_SPC.dtype
        and x_TC.dtype in native.DTYPES
        and x_TC.stride(1) == 1
        and weight_CW.is_contiguous()
        and state_SPC.is_contiguous()
    )


@ops.causal_conv.implement(supports=_supports, batch_invariant=True)
def causal_conv(x_TC: Tensor, weight_CW: Tensor, state_SPC: Tensor, slots: Slots) -> Tensor:
    """A request whose slot to write is -1 leaves its state nowhere."""
    out_TC = x_TC.new_empty(x_TC.shape)
    _causal_conv(
        *(native.DTYPES[x_TC.dtype], x_TC.data_ptr(), x_TC.stride(0)),
        *(weight_CW.data_ptr(), state_SPC.data_ptr()),
        *(x.data_ptr() for x in (slots.reads_R, slots.writes_R, slots.starts_R1)),
        *(len(slots.reads_R), *weight_CW.shape, out_TC.data_ptr()),
    )
    return out_TC
