"""Precision of the products of a chunk. What comes out otherwise is tested with the op."""

import torch

from pieria import ops
from pieria.ops import Inputs, Slots


def test_a_chunk_that_forgets_fast_is_as_exact_as_single_tokens() -> None:
    """Decays of 40 and more a token, and tokens between them that forget next to nothing."""
    make = Inputs(torch.float32)
    tokens, heads, size = 128, 4, 16
    decay_TH = torch.where(torch.arange(tokens)[:, None] % 7 == 0, -60.0, -1e-3)
    arguments = (
        make.normal(tokens, heads, size),
        make.normal(tokens, heads, size),
        make.normal(tokens, heads, size),
        decay_TH.expand(-1, heads),
        make.normal(tokens, heads).sigmoid(),
    )

    def run(dtype: torch.dtype) -> torch.Tensor:
        state = torch.zeros(1, heads, size, size, dtype=dtype)
        wide = [x.to(dtype) for x in arguments]
        return ops.gated_delta(*wide, state, Slots.fresh((tokens,)), scale=1.0).double()

    ops.use()
    wanted, single = run(torch.float64), run(torch.float32)
    ops.use("torch")
    found = run(torch.float32)
    ops.use()
    assert (found - wanted).abs().max() <= 3 * (single - wanted).abs().max()
