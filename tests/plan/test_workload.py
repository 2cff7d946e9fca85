"""Workloads as users write them."""

from pathlib import Path

import pytest

from pieria.plan.lengths import Lengths
from pieria.plan.workload import Workload, workload

TIMED = "arrived_at,num_prefill_tokens,num_decode_tokens\n0,10,5\n1,20,7\n"
UNTIMED = "num_prefill_tokens,num_decode_tokens\n10,5\n20,7\n"


@pytest.fixture
def timed(tmp_path: Path) -> Path:
    path = tmp_path / "timed.csv"
    path.write_text(TIMED)
    return path


@pytest.fixture
def untimed(tmp_path: Path) -> Path:
    path = tmp_path / "untimed.csv"
    path.write_text(UNTIMED)
    return path


def test_a_rate() -> None:
    found = workload("rate=2.5,input=512,output=uniform:1:9,duration=1h")
    assert found == Workload(
        rate=2.5,
        input=Lengths("fixed", 512),
        output=Lengths("uniform", 1, 9),
        requests=None,
        duration=3600,
    )
    assert found.expected == 9000
    assert str(found) == "512 in, uniform:1:9 out, 2.5/s, 3600 s"


def test_users_and_conversations() -> None:
    found = workload("concurrency=8,turns=3,think=2s,prefix=100,prefixes=4,requests=60,seed=7")
    assert (found.concurrency, found.turns, found.think, found.seed) == (8, 3, 2.0, 7)
    assert (found.prefix, found.prefixes, found.requests) == (100, 4, 60)
    assert str(found) == "1024 in, 256 out, 100 shared, 3 turns, 8 users, 60 requests"
    assert found.longest == 3 * (1024 + 256)


def test_a_trace_at_its_own_times(timed: Path) -> None:
    for text in (str(timed), f"trace={timed}"):
        found = workload(text)
        assert found.trace is not None and found.rate is None
        assert (found.requests, found.mean_lengths(2)) == (2, (15, 6))
    assert workload(f"trace={timed},duration=1s").requests is None


def test_a_trace_at_a_rate_goes_round(untimed: Path) -> None:
    found = workload(f"trace={untimed},rate=3")
    drawn = found.lengths()
    assert [next(drawn) for _ in range(3)] == [(10, 5), (20, 7), (10, 5)]
    assert found.requests == 1000
    assert workload(f"trace={untimed},rate=3,arrivals=even").is_even


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("input=5", "workload: rate or concurrency is needed, such as rate=2"),
        ("rate=1,concurrency=2", "workload: rate and concurrency exclude each other"),
        ("rate=0", "workload: rate='0' must be a number above 0"),
        ("rate=1,arrivals=often", "workload: arrivals='often'; there are: poisson, even"),
        ("rate=1,turns=0", "workload: turns='0' must be a whole number of at least 1"),
        ("rate=1,output=long", "workload: output='long' must be a number"),
        ("rate=1,duration=never", "workload: duration='never' must be a time"),
        ("rate=1,users=5", "workload: there is no 'users'; there are: rate, concurrency"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError) as refused:
        workload(text)
    assert reason in str(refused.value)


def test_a_trace_excludes_lengths_and_needs_times(timed: Path, untimed: Path) -> None:
    with pytest.raises(ValueError, match="input and trace exclude each other"):
        workload(f"trace={timed},input=5")
    with pytest.raises(ValueError, match="untimed.csv has no times of its own"):
        workload(str(untimed))
    with pytest.raises(OSError, match="none.csv"):
        workload("none.csv")
