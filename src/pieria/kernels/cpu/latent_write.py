"""Writing latents to their pages."""

from torch import Tensor

from pieria import ops
from pieria.kernels.cpu import native

_latent_write = native.kernel("latent_write", "PPqqPqqPq")


def _supports(cache_PNL: Tensor, value_TC: Tensor, key_TK: Tensor, slots_T: Tensor) -> bool:
    return (
        cache_PNL.dtype == value_TC.dtype == key_TK.dtype
        and cache_PNL.is_contiguous()
        and slots_T.is_contiguous()
        and value_TC.stride(1) == key_TK.stride(1) == 1
    )


@ops.latent_write.implement(supports=_supports)
def latent_write(cache_PNL: Tensor, value_TC: Tensor, key_TK: Tensor, slots_T: Tensor) -> None:
    """A token whose slot is -1 is written nowhere."""
    size = cache_PNL.element_size()
    _latent_write(
        cache_PNL.data_ptr(),
        *(value_TC.data_ptr(), value_TC.stride(0) * size, value_TC.shape[1] * size),
        *(key_TK.data_ptr(), key_TK.stride(0) * size, key_TK.shape[1] * size),
        *(slots_T.data_ptr(), len(slots_T)),
    )
