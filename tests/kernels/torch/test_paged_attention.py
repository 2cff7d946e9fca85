"""Which requests share a call. What comes out is tested with the op."""

import importlib

from hypothesis import given
from hypothesis import strategies as st

kernel = importlib.import_module("pieria.kernels.torch.paged_attention")


@given(
    st.lists(st.tuples(st.sampled_from([1, 1, 1, 5]), st.integers(1, 300)), min_size=1),
    st.integers(1, 2000),
)
def test_groups_hold_every_request_once_with_little_padding(
    requests: list[tuple[int, int]], tokens: int
) -> None:
    queries, spans = zip(*requests, strict=True)
    groups = list(kernel.groups(queries, list(spans), tokens))
    assert sorted(r for group in groups for r in group) == list(range(len(requests)))
    for group in groups:
        longest = max(spans[r] for r in group)
        assert len(group) == 1 or all(queries[r] == 1 for r in group)
        assert len(group) == 1 or len(group) * longest <= tokens
        assert all(2 * spans[r] >= longest for r in group)


def test_requests_of_one_length_share_as_few_calls_as_may_be() -> None:
    assert list(kernel.groups((1,) * 7, [10] * 7, 30)) == [[0, 1, 2], [3, 4, 5], [6]]
