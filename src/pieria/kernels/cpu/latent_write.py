"""Writing latents to their pages, as they are or rounded."""

import torch
from torch import Tensor

from pieria import ops
from pieria.kernels.cpu import native

_latent_write = native.kernel("latent_write", "PPqqPqqPq")
_latent_round = native.kernel("latent_round", "qqPPPqqPqqPq")


def _supports(
    cache_PNL: Tensor,
    value_TC: Tensor,
    key_TK: Tensor,
    slots_T: Tensor,
    scales: tuple[Tensor, ...] = (),
) -> bool:
    if scales:
        fits = (
            cache_PNL.dtype in native.ROUNDED
            and value_TC.dtype in native.DTYPES
            and scales[0].dtype == torch.float32
            and scales[0].is_contiguous()
        )
    else:
        fits = cache_PNL.dtype == value_TC.dtype
    return (
        fits
        and value_TC.dtype == key_TK.dtype
        and cache_PNL.is_contiguous()
        and slots_T.is_contiguous()
        and value_TC.stride(1) == key_TK.stride(1) == 1
    )


@ops.latent_write.implement(supports=_supports)
def latent_write(
    cache_PNL: Tensor,
    value_TC: Tensor,
    key_TK: Tensor,
    slots_T: Tensor,
    scales: tuple[Tensor, ...] = (),
) -> None:
    """A token whose slot is -1 is written nowhere."""
    if scales:
        _latent_round(
            *(native.DTYPES[value_TC.dtype], native.ROUNDED[cache_PNL.dtype]),
            *(cache_PNL.data_ptr(), scales[0].data_ptr()),
            *(value_TC.data_ptr(), value_TC.stride(0), value_TC.shape[1]),
            *(key_TK.data_ptr(), key_TK.stride(0), key_TK.shape[1]),
            *(slots_T.data_ptr(), len(slots_T)),
        )
        return
    size = cache_PNL.element_size()
    _latent_write(
        cache_PNL.data_ptr(),
        *(value_TC.data_ptr(), value_TC.stride(0) * size, value_TC.shape[1] * size),
        *(key_TK.data_ptr(), key_TK.stride(0) * size, key_TK.shape[1] * size),
        *(slots_T.data_ptr(), len(slots_T)),
    )
