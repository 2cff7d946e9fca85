"""Keys and values to their pages, as they are or rounded."""

import torch
from torch import Tensor

from pieria import ops
from pieria.kernels.cpu import native

_kv_write = native.kernel("kv_write", "qqPPPqPqPq")
_CACHE = "qPPPqq"
_kv_round = native.kernel("kv_round", "qq" + 2 * _CACHE + "Pqq")


def _dense(x_TGK: Tensor) -> bool:
    """Whether a token's numbers lie side by side."""
    return x_TGK.stride(2) == 1 and x_TGK.stride(1) == x_TGK.shape[2]


def _supports(
    k_cache_PNGK: Tensor,
    v_cache_PNGV: Tensor,
    k_TGK: Tensor,
    v_TGV: Tensor,
    slots_T: Tensor,
    scales: tuple[Tensor, ...] = (),
) -> bool:
    if scales:
        fits = (
            k_cache_PNGK.dtype == v_cache_PNGV.dtype
            and k_cache_PNGK.dtype in native.ROUNDED
            and k_TGK.dtype == v_TGV.dtype
            and k_TGK.dtype in native.DTYPES
            and all(s.dtype == torch.float32 and s.is_contiguous() for s in scales)
        )
    else:
        fits = k_cache_PNGK.dtype == k_TGK.dtype and v_cache_PNGV.dtype == v_TGV.dtype
    return (
        fits
        and k_cache_PNGK.is_contiguous()
        and v_cache_PNGV.is_contiguous()
        and slots_T.is_contiguous()
        and _dense(k_TGK)
        and _dense(v_TGV)
    )


@ops.kv_write.implement(supports=_supports)
def kv_write(
    k_cache_PNGK: Tensor,
    v_cache_PNGV: Tensor,
    k_TGK: Tensor,
    v_TGV: Tensor,
    slots_T: Tensor,
    scales: tuple[Tensor, ...] = (),
) -> None:
    if scales:
        _kv_round(
            *(native.DTYPES[k_TGK.dtype], native.ROUNDED[k_cache_PNGK.dtype]),
            *_rounded_values(k_cache_PNGK, scales[0], k_TGK),
            *_rounded_values(v_cache_PNGV, scales[1], v_TGV),
            *(slots_T.data_ptr(), len(slots_T), k_TGK.shape[1]),
        )
        return
    k_size, v_size = k_TGK.element_size(), v_TGV.element_size()
    _kv_write(
        *(k_size * k_TGK[0].numel(), v_size * v_TGV[0].numel()),
        *(k_cache_PNGK.data_ptr(), v_cache_PNGV.data_ptr()),
        *(k_TGK.data_ptr(), k_size * k_TGK.stride(0)),
        *(v_TGV.data_ptr(), v_size * v_TGV.stride(0)),
        *(slots_T.data_ptr(), len(slots_T)),
    )


def _rounded_values(cache_PNGX: Tensor, scales_PNG: Tensor, x_TGX: Tensor) -> tuple[int, ...]:
    addresses = cache_PNGX.data_ptr(), scales_PNG.data_ptr(), x_TGX.data_ptr()
    return cache_PNGX.shape[3], *addresses, x_TGX.stride(0), x_TGX.stride(1)
