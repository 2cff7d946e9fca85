"""The gated delta rule against transformers' two forms of it, whole and in pieces."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.models.qwen3_next.modeling_qwen3_next import (
    torch_chunk_gated_delta_rule,
    torch_recurrent_gated_delta_rule,
)

from pieria import ops
from pieria.ops import Slots

G, H, K, V = 2, 6, 8, 12
BACKENDS = [(), ("torch",)]


@pytest.fixture(params=BACKENDS, ids=["reference", "torch"], autouse=True)
def backend(request: pytest.FixtureRequest) -> None:
    ops.use(*request.param)
    request.addfinalizer(ops.use)


def inputs(tokens: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """q, k, v, decays and betas; heads forget at very different rates."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    rates_H = torch.logspace(-4, 1, H, dtype=torch.float64)
    made = [
        normal(tokens, G, K),
        normal(tokens, G, K),
        normal(tokens, H, V),
        -rates_H * F.softplus(normal(tokens, H)),
        normal(tokens, H).sigmoid(),
    ]
    return [x.to(dtype) for x in made]


def states(slots: int) -> Tensor:
    generator = torch.Generator().manual_seed(9)
    return torch.randn(slots, H, K, V, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("theirs", [torch_recurrent_gated_delta_rule, torch_chunk_gated_delta_rule])
def test_it_is_that_of_transformers(tokens: int, theirs: object) -> None:
    """Theirs is computed in float32."""
    arguments, state = inputs(tokens, dtype=torch.float32), states(2).float()
    for read in (-1, 1):
        y, left = theirs(  # type: ignore[operator]
            *(x[None] for x in arguments),
            initial_state=None if read < 0 else state[1:],
            output_final_state=True,
            use_qk_l2norm_in_kernel=True,
        )
        mine = state.clone()
        got = ops.gated_delta(*arguments, mine, Slots.of((tokens,), (read,), (0,)), scale=K**-0.5)
        torch.testing.assert_close(got, y[0], atol=2e-5, rtol=2e-5)
        torch.testing.assert_close(mine[0], left[0], atol=2e-5, rtol=2e-5)
        assert torch.equal(mine[1], state[1])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 150), min_size=1, max_size=4), st.data())
def test_pieces_are_the_whole(lengths: list[int], data: st.DataObject) -> None:
    """Sequences side by side, cut anywhere, whose states go from slot to slot; both backends."""
    arguments = [inputs(n, seed) for seed, n in enumerate(lengths)]
    cuts = [sorted({0, n, *data.draw(st.lists(st.integers(0, n), max_size=3))}) for n in lengths]
    scale = K**-0.5
    ops.use()
    wanted = [
        ops.gated_delta(*x, states(1), Slots.fresh((n,)), scale=scale)
        for x, n in zip(arguments, lengths, strict=True)
    ]
    for used in BACKENDS:
        ops.use(*used)
        # What was never written must never be read.
        state = torch.full((2 * len(lengths), H, K, V), torch.nan, dtype=torch.float64)
        for turn in range(max(map(len, cuts)) - 1):
            live = [i for i, ends in enumerate(cuts) if turn < len(ends) - 1]
            spans = [slice(cuts[i][turn], cuts[i][turn + 1]) for i in live]
            slots = Slots.of(
                [s.stop - s.start for s in spans],
                [2 * i + turn % 2 if turn else -1 for i in live],
                [2 * i + (turn + 1) % 2 for i in live],
            )
            parts = [[x[span] for x in arguments[i]] for i, span in zip(live, spans, strict=True)]
            packed = [torch.cat(xs) for xs in zip(*parts, strict=True)]
            got = ops.gated_delta(*packed, state, slots, scale=scale)
            for i, span, y in zip(live, spans, torch.split(got, list(slots.lengths)), strict=True):
                torch.testing.assert_close(y, wanted[i][span], atol=1e-12, rtol=1e-12)


def test_a_broken_request_breaks_no_other() -> None:
    good, bad = inputs(70), inputs(70, seed=1)
    bad[2][3] = torch.nan
    state = states(4)
    state[0] = torch.nan
    alone = ops.gated_delta(*good, states(4), Slots.of((70,), (1,), (2,)), scale=1.0)
    packed = [torch.cat(xs) for xs in zip(bad, good, strict=True)]
    got = ops.gated_delta(*packed, state, Slots.of((70, 70), (0, 1), (3, 2)), scale=1.0)
    assert got[:70].isnan().any()
    torch.testing.assert_close(got[70:], alone, atol=1e-12, rtol=1e-12)
    assert state[3].isnan().any() and state[2].isfinite().all()


def test_what_does_not_forget_is_replaced_by_what_is_wrong() -> None:
    """With unit keys, no decay and beta 1, a key's value is what was last written under it."""
    k_TGK = torch.eye(K, dtype=torch.float64)[[0, 1, 0]][:, None] * 1e4
    v_THV = torch.arange(3 * V, dtype=torch.float64).view(3, 1, V)
    still, sure = torch.zeros(3, 1).double(), torch.ones(3, 1).double()
    state = torch.zeros(1, 1, K, V).double()
    y = ops.gated_delta(k_TGK, k_TGK, v_THV, still, sure, state, Slots.fresh((3,)), scale=1.0)
    torch.testing.assert_close(y, v_THV)
    torch.testing.assert_close(state[0, 0, :2], v_THV[[2, 1], 0])
    assert not state[0, 0, 2:].any()
