"""Users who ask again: ranks that have requests of their own and step together, counted by hand."""

import pytest

from pieria.plan.closed_loop import Batching, Load, serve


def seconds(queries: list[int], starts: list[int]) -> float:
    """One for each token of the rank whose step it is."""
    assert len(queries) == len(starts)
    return float(sum(queries))


def test_step_lasts_as_long_as_that_of_the_fullest_rank() -> None:
    # Two prompts are one rank's and one is the other's: the first step takes 8, the next one 2.
    found = serve(seconds, Load(3, 4, 2, 3), Batching(budget=8, ranks=2))
    assert (found.ttft, found.tpot, found.tokens_per_second) == (8.0, 2.0, 6 / 10)
    assert serve(seconds, Load(1, 4, 2, 1), Batching(budget=8)).ttft == 4.0


@pytest.mark.parametrize("order", ["mixed", "prompts"])
def test_prompt_of_one_rank_holds_tokens_of_another(order: str) -> None:
    # Seen at 5 and 10. One rank computes its prompt until 9 and two tokens until 11; its next takes
    # as long as the other's prompt, until 15; then both have one token a step.
    batching = Batching(order, budget=8, front_each=5.0, ranks=2)  # type: ignore[arg-type]
    found = serve(seconds, Load(2, 4, 5, 2), batching)
    assert found.ttft == (9 + 15) / 2
    assert found.tpot == ((16 - 9) / 4 + (19 - 15) / 4) / 2


def test_cache_and_running_requests_are_those_of_a_rank() -> None:
    load = Load(4, 4, 2, 4)
    assert not serve(seconds, load, Batching(running=2, ranks=2)).waited
    assert serve(seconds, load, Batching(running=2)).waited
    assert not serve(seconds, load, Batching(cache_tokens=12, ranks=2)).waited
    assert serve(seconds, load, Batching(cache_tokens=12)).waited


def test_ranks_that_have_as_much_to_do_are_as_fast_as_one() -> None:
    one = serve(seconds, Load(3, 5, 7, 9), Batching(budget=16))
    four = serve(seconds, Load(12, 5, 7, 36), Batching(budget=16, ranks=4))
    assert (four.ttft, four.tpot) == pytest.approx((one.ttft, one.tpot))
    assert four.tokens_per_second == pytest.approx(4 * one.tokens_per_second)


@pytest.mark.parametrize("ranks", [1, 2])
def test_shorter_prompts_that_are_seen_before_earlier_ones_wait_for_them(ranks: int) -> None:
    load = Load(6, 100, 2, 30, least=0.1)
    assert serve(seconds, load, Batching(front_token=1.0, ranks=ranks)).ttft > 0


def test_request_that_does_not_fit_the_cache() -> None:
    with pytest.raises(ValueError, match="a request of 6 tokens does not fit a cache of 5"):
        serve(seconds, Load(1, 4, 2, 1), Batching(cache_tokens=5))
