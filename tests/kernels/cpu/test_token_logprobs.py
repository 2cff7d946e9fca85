"""Reports at the sizes of a model, for every instruction set, against float64 and a stable sort."""

import importlib
import math

import pytest
import torch

from pieria import ops
from pieria.kernels.cpu import native

ops.load("cpu")
token_logprobs = importlib.import_module("pieria.kernels.cpu.token_logprobs").token_logprobs

VOCABULARY = 20_011


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", list(native.DTYPES), ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("top", [0, 1, 20, 3000, VOCABULARY])
def test_a_large_vocabulary(dtype: torch.dtype, top: int) -> None:
    """Sixteen bits make hundreds of equals; some tokens are banned, and one row has many."""
    generator = torch.Generator().manual_seed(0)
    logits_RV = torch.randn(5, VOCABULARY, generator=generator) * 3
    logits_RV[1] = logits_RV[1].round()
    logits_RV[2] -= 500
    logits_RV[3, ::3] = -math.inf
    logits_RV[4] = -7.0
    logits_RV = logits_RV.to(dtype)
    wanted_RV = logits_RV.double().log_softmax(-1)
    order_RV = logits_RV.float().sort(dim=-1, descending=True, stable=True).indices
    for tokens in ([0, 5000, VOCABULARY - 1, 3, 12_345], [256, 255, 257, 4, VOCABULARY - 1]):
        tokens_R = torch.tensor(tokens)
        logprob_R, rank_R, top_RC, top_tokens_RC = token_logprobs(logits_RV, tokens_R, top)
        assert torch.equal(top_tokens_RC, order_RV[:, :top])
        assert torch.equal(rank_R, 1 + (order_RV == tokens_R[:, None]).int().argmax(-1))
        torch.testing.assert_close(
            logprob_R.double(), wanted_RV.gather(1, tokens_R[:, None])[:, 0], atol=3e-6, rtol=1e-6
        )
        torch.testing.assert_close(
            top_RC.double(), wanted_RV.gather(1, top_tokens_RC), atol=3e-6, rtol=1e-6
        )
