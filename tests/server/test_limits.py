"""Each key's limits on a clock that stands still, and its use."""

import pytest

from pieria.server.errors import ApiError
from pieria.server.keys import Key, Keys
from pieria.server.limits import Account, Accounts


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> float:
        return self.time

    def wall(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


def account(clock: Clock, **limits: int) -> Account:
    return Account(Key("alice", "0" * 64, **limits), clock)


def refusal(of: Account) -> tuple[int, str, str]:
    with pytest.raises(ApiError) as raised:
        of.begin()
    error = raised.value
    return error.status, error.headers["retry-after"], error.message


def test_requests_per_minute() -> None:
    clock = Clock()
    alice = account(clock, requests_per_minute=3)
    for _ in range(3):
        alice.begin()
    status, wait, message = refusal(alice)
    assert (status, wait) == (429, "20")
    assert message == "this key has used all of its requests per minute; try again in 20 s"
    clock.sleep(19.9)
    refusal(alice)
    clock.sleep(0.1)
    alice.begin()
    refusal(alice)
    clock.sleep(1e6)
    for _ in range(3):
        alice.begin()
    refusal(alice)
    assert (alice.requests, alice.refused) == (7, 4)


def test_who_used_more_tokens_than_there_were_waits_until_they_are_paid() -> None:
    clock = Clock()
    alice = account(clock, tokens_per_minute=60)
    alice.begin()
    alice.take_prompt(50)
    alice.begin()
    alice.take_generated(30)
    status, wait, message = refusal(alice)
    assert (status, wait) == (429, "21")
    assert "all of its tokens per minute" in message
    clock.sleep(20.5)
    alice.begin()
    assert (alice.prompt_tokens, alice.generated_tokens) == (50, 30)


def test_requests_at_once() -> None:
    alice = account(Clock(), max_concurrent_requests=2)
    alice.begin()
    alice.begin()
    assert refusal(alice)[2].startswith("this key may have 2 requests in work at once")
    alice.end()
    alice.begin()


def test_who_has_no_limit_is_only_counted() -> None:
    clock = Clock()
    for free in (account(clock), Account(None, clock)):
        for _ in range(1000):
            free.begin()
        free.take_prompt(10**9)
        free.begin()
        assert (free.requests, free.running, free.prompt_tokens) == (1001, 1001, 10**9)


def test_salts_are_each_keys_own() -> None:
    clock = Clock()
    keys = [Key("a", "0" * 64), Key("b", "1" * 64)]
    salts = {Account(key, clock).salt for key in keys}
    assert len(salts) == 2
    assert all(len(salt) == 32 for salt in salts)
    # Who gets the key's name later gets none of its prefixes.
    assert Account(Key("a", "2" * 64), clock).salt not in salts
    assert Account(None, clock).salt == ""


def test_use_outlives_new_limits() -> None:
    clock = Clock()
    old, new = (Key("a", "0" * 64, requests_per_minute=n) for n in (1, 2))
    accounts = Accounts(Keys([old]), clock)
    alice = accounts.of(old)
    alice.begin()
    refusal(alice)
    accounts.update(Keys([new, Key("b", "1" * 64)]))
    assert accounts.of(new) is alice
    alice.begin()
    alice.begin()
    refusal(alice)
    assert [one.name for one in accounts.all()] == ["anonymous", "a", "b"]
    accounts.update(Keys([new]))
    alice.running = 0
    refusal(alice)
