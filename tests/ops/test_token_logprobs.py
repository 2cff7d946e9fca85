"""Reports on tokens against numpy's stable sort and log-softmax in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pieria import ops
from pieria.ops.token_logprobs import most_likely

LOGITS = st.integers(1, 30).flatmap(
    lambda v: st.lists(
        st.lists(st.integers(-6, 6).map(lambda k: k / 2), min_size=v, max_size=v),
        min_size=1,
        max_size=4,
    )
)


@given(LOGITS, st.data())
@settings(max_examples=150, deadline=None)
def test_ranks_and_alternatives_are_those_of_a_stable_sort(
    rows: list[list[float]], data: st.DataObject
) -> None:
    """Half-integers between -3 and 3 make many equal logits."""
    logits_RV = torch.tensor(rows)
    vocabulary = logits_RV.shape[1]
    top = data.draw(st.integers(0, vocabulary))
    tokens = data.draw(
        st.lists(st.integers(0, vocabulary - 1), min_size=len(rows), max_size=len(rows))
    )
    logprob_R, rank_R, top_RC, top_tokens_RC = ops.token_logprobs(
        logits_RV, torch.tensor(tokens), top
    )
    for r, row in enumerate(rows):
        exact = np.array(row) - np.log(np.exp(np.array(row)).sum())
        order = np.argsort(-np.array(row), kind="stable").tolist()
        assert top_tokens_RC[r].tolist() == order[:top]
        assert rank_R[r].item() == 1 + order.index(tokens[r])
        assert logprob_R[r].item() == pytest.approx(exact[tokens[r]], abs=1e-5)
        assert top_RC[r].tolist() == pytest.approx(exact[order[:top]].tolist(), abs=1e-5)


def test_most_likely_of_a_bfloat16_vocabulary_is_a_stable_sort() -> None:
    """Eight bits of mantissa make hundreds of equals at the border."""
    generator = torch.Generator().manual_seed(0)
    logits_RV = torch.randn(4, 20_000, generator=generator).bfloat16().float()
    for count in (1, 50, 3000):
        values_RC, tokens_RC = most_likely(logits_RV, count)
        want = logits_RV.sort(dim=-1, descending=True, stable=True)
        assert torch.equal(values_RC, want.values[:, :count])
        assert torch.equal(tokens_RC, want.indices[:, :count])


@pytest.mark.parametrize("top", [-1, 6])
def test_more_alternatives_than_tokens_are_refused(top: int) -> None:
    with pytest.raises(ValueError, match=rf"top={top} must be from 0 to the vocabulary of 5"):
        ops.token_logprobs(torch.zeros(1, 5), torch.tensor([0]), top)
