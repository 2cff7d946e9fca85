"""`name=value` lists: what is read, and what is refused with its name."""

import pytest

from pieria.plan.pairs import count, number, pairs, seconds

NAMES = ("rate", "turns")


def test_pairs_are_read_in_any_order_and_with_spaces() -> None:
    assert pairs(" turns = 3, rate=2.5,", NAMES, "workload") == {"turns": "3", "rate": "2.5"}
    assert pairs("", NAMES, "workload") == {}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("rate", r"workload: 'rate' must be NAME=VALUE, such as rate=1"),
        ("rate=", r"workload: 'rate=' must be NAME=VALUE"),
        ("speed=3", r"workload: there is no 'speed'; there are: rate, turns"),
        ("rate=3,rate=4", r"workload: rate is given twice"),
    ],
)
def test_what_is_no_pair_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        pairs(text, NAMES, "workload")


@pytest.mark.parametrize(
    ("text", "value"),
    [("50ms", 0.05), ("2s", 2), ("2", 2), ("1.5 min", 90), ("1h", 3600), ("3us", 3e-6)],
)
def test_times(text: str, value: float) -> None:
    assert seconds(text, "ttft") == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "fast", "-1s", "3 days", "1e3", "nan", "2ss"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=rf"ttft='{text}' must be a time such as 50ms"):
        seconds(text, "ttft")


@pytest.mark.parametrize("text", ["0", "-1", "inf", "nan", "many"])
def test_numbers_are_above_their_bound(text: str) -> None:
    assert number("2.5", "rate") == 2.5
    with pytest.raises(ValueError, match=rf"rate='{text}' must be a number above 0"):
        number(text, "rate")


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many", "9" * 13])
def test_counts_are_whole(text: str) -> None:
    assert count("12", "turns") == 12
    assert count("0", "seed", least=0) == 0
    with pytest.raises(ValueError, match=rf"turns='{text}' must be a whole number of at least 1"):
        count(text, "turns")
