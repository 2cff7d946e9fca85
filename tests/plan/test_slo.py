"""Bounds on a request's times."""

import pytest

from pieria.plan.slo import Slo, slo


def test_bounds_are_read_with_their_units() -> None:
    assert slo("ttft=2s,tpot=50ms") == Slo(ttft=2.0, tpot=0.05)
    assert slo("gap=0.5,total=1min,share=0.99") == Slo(gap=0.5, total=60.0, share=0.99)
    assert slo("") == Slo()
    assert str(slo("ttft=2s,tpot=50ms")) == "ttft<=2000ms, tpot<=50ms for 90%"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ttft=fast", "slo: ttft='fast' must be a time such as 50ms"),
        ("tpot=0ms", "slo: tpot='0ms' must be above 0"),
        ("share=1.5", "slo: share='1.5' must be at most 1"),
        ("share=0", "slo: share='0' must be a number above 0"),
        ("p99=3s", "slo: there is no 'p99'; there are: ttft, tpot, gap, total, share"),
    ],
)
def test_what_is_no_bound_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError) as refused:
        slo(text)
    assert reason in str(refused.value)


@pytest.mark.parametrize("name", ["ttft", "tpot", "gap", "total"])
def test_every_bound_counts(name: str) -> None:
    times = {"ttft": 1.0, "tpot": 1.0, "gap": 1.0, "total": 1.0}
    bound = slo(f"{name}=1s")
    assert bound.met(**times)
    assert not bound.met(**{**times, name: 1.001})
    assert Slo().met(**{**times, name: 1e9})
