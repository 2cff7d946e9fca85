"""Keys and values to their pages."""

from torch import Tensor

from pieria import ops
from pieria.kernels.cpu import native

_kv_write = native.kernel("kv_write", "qqPPPqPqPq")


def _dense(x_TGK: Tensor) -> bool:
    """Whether a token's numbers lie side by side."""
    return x_TGK.stride(2) == 1 and x_TGK.stride(1) == x_TGK.shape[2]


def _supports(
    k_cache_PNGK: Tensor, v_cache_PNGV: Tensor, k_TGK: Tensor, v_TGV: Tensor, slots_T: Tensor
) -> bool:
    return (
        k_cache_PNGK.dtype == k_TGK.dtype
        and v_cache_PNGV.dtype == v_TGV.dtype
        and k_cache_PNGK.is_contiguous()
        and v_cache_PNGV.is_contiguous()
        and slots_T.is_contiguous()
        and _dense(k_TGK)
        and _dense(v_TGV)
    )


@ops.kv_write.implement(supports=_supports)
def kv_write(
    k_cache_PNGK: Tensor, v_cache_PNGV: Tensor, k_TGK: Tensor, v_TGV: Tensor, slots_T: Tensor
) -> None:
    k_size, v_size = k_TGK.element_size(), v_TGV.element_size()
    _kv_write(
        *(k_size * k_TGK[0].numel(), v_size * v_TGV[0].numel()),
        *(k_cache_PNGK.data_ptr(), v_cache_PNGV.data_ptr()),
        *(k_TGK.data_ptr(), k_size * k_TGK.stride(0)),
        *(v_TGV.data_ptr(), v_size * v_TGV.stride(0)),
        *(slots_T.data_ptr(), len(slots_T)),
    )
