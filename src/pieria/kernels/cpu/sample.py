"""Drawing tokens without sorting the vocabulary, and with noise for those alone that may win."""

import torch
from torch import Tensor

from pieria import ops
from pieria.kernels.cpu import native
from pieria.ops import Draws
from pieria.ops.sample import Triplets

_sample = native.kernel("sample", "qPqqq" + "PPPPPPPP" + 2 * "PPPq" + "P")


def _supports(logits_RV: Tensor, draws: Draws) -> bool:
    floats = (
        *(draws.temperature_R, draws.top_p_R, draws.min_p_R),
        *(draws.repetition_R, draws.presence_R, draws.frequency_R),
    )
    triplets = [t for t in (draws.history, draws.bias) if t is not None]
    return (
        logits_RV.dtype in native.DTYPES
        and logits_RV.stride(1) == 1
        and _dense(torch.int64, draws.keys_R, draws.top_k_R, *(x for t in triplets for x in t[:2]))
        and _dense(torch.float32, *floats, *(t[2] for t in triplets))
    )


@ops.sample.implement(supports=_supports, batch_invariant=True)
def sample(logits_RV: Tensor, draws: Draws) -> Tensor:
    tokens_R = torch.empty_like(draws.keys_R)
    options = (
        *(draws.temperature_R, draws.top_k_R, draws.top_p_R, draws.min_p_R),
        *(draws.repetition_R, draws.presence_R, draws.frequency_R),
    )
    _sample(
        *(native.DTYPES[logits_RV.dtype], logits_RV.data_ptr(), logits_RV.stride(0)),
        *(*logits_RV.shape, draws.keys_R.data_ptr()),
        *(0 if x is None else x.data_ptr() for x in options),
        *_addresses(draws.history),
        *_addresses(draws.bias),
        tokens_R.data_ptr(),
    )
    return tokens_R


def _dense(dtype: torch.dtype, *tensors: Tensor | None) -> bool:
    return all(x is None or (x.dtype == dtype and x.is_contiguous()) for x in tensors)


def _addresses(triplets: Triplets | None) -> tuple[int, ...]:
    if triplets is None:
        return 0, 0, 0, 0
    return *(x.data_ptr() for x in triplets), len(triplets[0])
