"""Writing keys and values by one copy of rows each."""

from torch import Tensor

from pieria import ops


def _supports(
    k_cache_PNGK: Tensor,
    v_cache_PNGV: Tensor,
    k_TGK: Tensor,
    v_TGV: Tensor,
    slots_T: Tensor,
    scales: tuple[Tensor, ...] = (),
) -> bool:
    return (
        not scales
        and k_cache_PNGK.is_contiguous()
        and v_cache_PNGV.is_contiguous()
        and k_cache_PNGK.dtype == k_TGK.dtype
        and v_cache_PNGV.dtype == v_TGV.dtype
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
    k_cache_PNGK.view(-1, *k_TGK.shape[1:]).index_copy_(0, slots_T, k_TGK)
    v_cache_PNGV.view(-1, *v_TGV.shape[1:]).index_copy_(0, slots_T, v_TGV)
