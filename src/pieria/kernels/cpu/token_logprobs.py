"""Reports on tokens in two passes over the vocabulary, without sorting it."""

import torch
from torch import Tensor

from pieria import ops
from pieria.kernels.cpu import native

_token_logprobs = native.kernel("token_logprobs", "qPqqqPqPPPP")


def _supports(logits_RV: Tensor, tokens_R: Tensor, top: int) -> bool:
    return (
        logits_RV.dtype in native.DTYPES
        and logits_RV.stride(1) == 1
        and tokens_R.is_contiguous()
        and 0 <= top <= logits_RV.shape[1]
    )


@ops.token_logprobs.implement(supports=_supports, batch_invariant=True)
def token_logprobs(
    logits_RV: Tensor, tokens_R: Tensor, top: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows = logits_RV.shape[0]
    logprob_R = logits_RV.new_empty(rows, dtype=torch.float32)
    rank_R = torch.empty_like(tokens_R)
    top_RC = logits_RV.new_empty(rows, top, dtype=torch.float32)
    top_tokens_RC = tokens_R.new_empty(rows, top)
    _token_logprobs(
        *(native.DTYPES[logits_RV.dtype], logits_RV.data_ptr(), logits_RV.stride(0)),
        *(*logits_RV.shape, tokens_R.data_ptr(), top),
        *(x.data_ptr() for x in (logprob_R, rank_R, top_RC, top_tokens_RC)),
    )
    return logprob_R, rank_R, top_RC, top_tokens_RC
