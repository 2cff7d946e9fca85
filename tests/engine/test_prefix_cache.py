"""The prefix tree against a dictionary of prefixes and a list of what was let go when."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pieria.engine.pages import Pages
from pieria.engine.prefix_cache import Key, PrefixCache
from tests.engine.profiles import CATCH, MANY, MODEST

KEY = ("", "")


def store(cache: PrefixCache, tokens: Sequence[int], key: Key = KEY) -> list[int]:
    """Publish all full pages of `tokens` as a request does that computes them all, and let go."""
    n = cache.page_tokens
    table = cache.match(key, tokens)
    first = len(table)
    table += cache.pages.take(-(-len(tokens) // n) - first)
    cache.publish(key, tokens, table, first, len(tokens) // n)
    cache.pages.release(table)
    cache.check()
    return table


def found(cache: PrefixCache, tokens: Sequence[int], key: Key = KEY) -> list[int]:
    """What `match` finds, let go again."""
    pages = cache.match(key, tokens)
    cache.pages.release(pages)
    assert cache.matched_tokens(key, tokens) == len(pages) * cache.page_tokens
    return pages


def test_nothing_is_found_in_an_empty_cache() -> None:
    assert found(PrefixCache(4, 2), [1, 2, 3]) == []


def test_the_longest_beginning_is_found_in_whole_pages() -> None:
    cache = PrefixCache(8, 2)
    table = store(cache, [1, 2, 3, 4, 5])
    assert found(cache, [1, 2, 3, 4, 9]) == table[:2]
    assert found(cache, [1, 2, 3, 9, 9]) == table[:1]
    assert found(cache, [1, 9, 3, 4, 9]) == []
    assert found(cache, [3, 4, 9]) == [], "a page is found only behind the pages before it"
    assert found(cache, [1, 2, 3, 4, 5, 6]) == table[:2], "a page that was not full is not found"


def test_one_token_is_left_to_compute() -> None:
    cache = PrefixCache(8, 2)
    table = store(cache, [1, 2, 3, 4])
    assert found(cache, [1, 2, 3, 4]) == table[:1]
    assert found(cache, [1, 2, 3, 4, 5]) == table[:2]
    assert found(cache, [1, 2]) == []
    assert found(cache, [1]) == found(cache, []) == []


def test_pages_of_one_token() -> None:
    cache = PrefixCache(8, 1)
    table = store(cache, [1, 2, 3])
    assert found(cache, [1, 2, 3]) == table[:2]


def test_salts_and_adapters_do_not_meet() -> None:
    cache = PrefixCache(16, 2)
    tokens = [1, 2, 3, 4, 5]
    keys = [("", ""), ("a", ""), ("", "a"), ("a", "b"), ("b", "a"), ("ab", "")]
    tables = {}
    for key in keys[:-1]:
        assert found(cache, tokens, key) == []
        tables[key] = store(cache, tokens, key)[:2]
    assert found(cache, tokens, keys[-1]) == []
    for key, table in tables.items():
        assert found(cache, tokens, key) == table


def test_a_beginning_published_twice_has_one_page() -> None:
    cache = PrefixCache(8, 2)
    mine, other = cache.pages.take(3), cache.pages.take(3)
    theirs = list(other)
    cache.publish(KEY, [1, 2, 3, 4, 5], mine, 0, 2)
    cache.publish(KEY, [1, 2, 3, 4, 6], theirs, 0, 2)
    assert theirs == [*mine[:2], other[2]]
    assert (cache.pages.held, cache.pages.available) == (4, 4), "the two copies are free"
    cache.pages.release(mine)
    assert (cache.pages.held, cache.pages.cached) == (3, 0)
    cache.pages.release(theirs)
    assert (cache.pages.held, cache.pages.cached) == (0, 2)
    cache.check()


def test_a_copy_of_a_cached_page_brings_it_back() -> None:
    cache = PrefixCache(4, 2)
    table = cache.pages.take(2)
    first = store(cache, [1, 2, 3])[0]
    cache.publish(KEY, [1, 2, 3], table, 0, 1)
    assert table[0] == first
    assert (cache.pages.held, cache.pages.cached) == (2, 0)


def test_published_a_page_at_a_time_and_all_at_once_is_the_same() -> None:
    cache = PrefixCache(8, 2)
    tokens = [1, 2, 3, 4, 5, 6, 7]
    table = cache.pages.take(4)
    for i in range(3):
        cache.publish(KEY, tokens, table, i, i + 1)
    cache.publish(KEY, tokens, table, 3, 3)
    assert found(cache, tokens) == table[:3]


def test_the_leaf_let_go_longest_ago_is_evicted_first() -> None:
    cache = PrefixCache(5, 2)
    store(cache, [1, 2, 3, 4, 5])
    store(cache, [1, 2, 6, 7, 8])
    assert cache.pages.cached == 3
    cache.pages.take(3)
    assert cache.matched_tokens(KEY, [1, 2, 3, 4, 5]) == 2
    assert cache.matched_tokens(KEY, [1, 2, 6, 7, 8]) == 4
    cache.check()


def test_a_match_keeps_pages_from_eviction() -> None:
    cache = PrefixCache(4, 2)
    table = store(cache, [1, 2, 3, 4, 5])
    assert cache.match(KEY, [1, 2, 3, 4, 5]) == table[:2]
    assert cache.pages.available == 2
    cache.pages.take(2)
    assert cache.matched_tokens(KEY, [1, 2, 3, 4, 5]) == 4
    cache.check()


def test_nothing_is_left_of_what_was_evicted() -> None:
    cache = PrefixCache(4, 2)
    for salt in "abcdef":
        store(cache, [1, 2, 3, 4, 5], (salt, ""))
    cache.pages.release(cache.pages.take(4))
    assert (cache.pages.cached, cache._first, cache._nodes) == (0, {}, {})
    cache.check()


def test_disabled_it_finds_nothing() -> None:
    cache = PrefixCache(4, 2, enabled=False)
    store(cache, [1, 2, 3, 4, 5])
    assert found(cache, [1, 2, 3, 4, 5]) == []
    assert (cache.pages.cached, cache.pages.available) == (0, 4)


def test_a_half_full_page_is_refused() -> None:
    cache = PrefixCache(4, 2)
    with pytest.raises(AssertionError, match="full pages"):
        cache.publish(KEY, [1, 2, 3], cache.pages.take(2), 0, 2)


@dataclass
class Writer:
    """As a request: its pages, and how many of them are full and were offered."""

    key: Key
    tokens: list[int]
    table: list[int]
    offered: int

    def prefix(self, pages: int, n: int) -> tuple[int, ...]:
        return tuple(self.tokens[: pages * n])


TEXTS = st.one_of(
    st.builds(
        lambda text, end: text[:end], st.sampled_from([[0] * 9, [0, 1] * 4]), st.integers(0, 9)
    ),
    st.lists(st.integers(0, 1), max_size=9),
)


class PrefixMachine(RuleBasedStateMachine):
    """The model: (key, beginning of text) -> page, in the order in which they were let go."""

    @initialize(pages=st.integers(1, 10), page_tokens=st.integers(1, 3))
    def start(self, pages: int, page_tokens: int) -> None:
        self.n = page_tokens
        self.cache = PrefixCache(pages, page_tokens)
        self.writers: list[Writer] = []
        self.known: dict[tuple[Key, tuple[int, ...]], int] = {}
        self.let_go: list[int] = []

    def holders(self, page: int) -> int:
        return sum(writer.table.count(page) for writer in self.writers)

    @rule(
        key=st.sampled_from([("", ""), ("a", ""), ("", "a")]),
        tokens=TEXTS,
    )
    def begin(self, key: Key, tokens: list[int]) -> None:
        expected: list[int] = []
        while (
            page := self.known.get((key, tuple(tokens[: (len(expected) + 1) * self.n])))
        ) is not None and (len(expected) + 1) * self.n < len(tokens):
            expected.append(page)
        assert self.cache.matched_tokens(key, tokens) == len(expected) * self.n
        assert self.cache.match(key, tokens) == expected
        self.let_go = [page for page in self.let_go if page not in expected]
        self.writers.append(Writer(key, tokens, expected, len(expected)))
        self.extend(len(self.writers) - 1, 9)

    def extend(self, index: int, pages: int) -> None:
        """Take as many pages as the tokens need and there are."""
        writer = self.writers[index]
        missing = -(-len(writer.tokens) // self.n) - len(writer.table)
        count = min(missing, pages, self.cache.pages.available)
        free = self.cache.pages.available - len(self.let_go)
        for page in self.let_go[: max(0, count - free)]:
            ((key, text),) = [k for k, p in self.known.items() if p == page]
            del self.known[key, text]
            assert not any(k == key and t[: len(text)] == text for k, t in self.known), "a leaf"
        del self.let_go[: max(0, count - free)]
        taken = self.cache.pages.take(count)
        assert not any(self.holders(page) for page in taken)
        assert not set(taken) & set(self.known.values())
        writer.table += taken

    @precondition(lambda self: self.writers)
    @rule(data=st.data(), pages=st.integers(1, 3))
    def publish(self, data: st.DataObject, pages: int) -> None:
        writer = data.draw(st.sampled_from(self.writers))
        full = min(len(writer.table), len(writer.tokens) // self.n)
        last = min(full, writer.offered + pages)
        expected = list(writer.table)
        for i in range(writer.offered, last):
            text = (writer.key, writer.prefix(i + 1, self.n))
            expected[i] = self.known.setdefault(text, expected[i])
            self.let_go = [page for page in self.let_go if page != expected[i]]
        self.cache.publish(writer.key, writer.tokens, writer.table, writer.offered, last)
        assert writer.table == expected
        writer.offered = last

    @precondition(lambda self: self.writers)
    @rule(data=st.data(), tokens=st.lists(st.integers(0, 1), min_size=1, max_size=3))
    def write(self, data: st.DataObject, tokens: list[int]) -> None:
        index = data.draw(st.integers(0, len(self.writers) - 1))
        self.writers[index].tokens += tokens
        self.extend(index, 2)

    @precondition(lambda self: self.writers)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        writer = self.writers.pop(data.draw(st.integers(0, len(self.writers) - 1)))
        self.cache.pages.release(writer.table)
        published = set(self.known.values())
        for page in reversed(writer.table):
            if page in published and not self.holders(page):
                self.let_go.append(page)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "cache"):
            return
        self.cache.check()
        assert self.cache.pages.cached == len(self.let_go)
        assert set(self.cache._nodes) == set(self.known.values())
        for (key, text), page in self.known.items():
            pages = self.cache._walk(key, (*text, -1))
            assert pages[-1] == page and len(pages) * self.n == len(text)


class TestPrefixCache(PrefixMachine.TestCase):
    settings = MODEST


@pytest.mark.slow
def test_the_tree_against_the_model_at_length() -> None:
    run_state_machine_as_test(PrefixMachine, settings=MANY)


_edge, _hold, _release = PrefixCache._edge, Pages.hold, Pages.release
_match, _publish = PrefixCache.match, PrefixCache.publish


def _same_for_all_salts(self: PrefixCache, key: Key, tokens: Sequence[int], page: int) -> Any:
    return _edge(self, ("", key[1]), tokens, page)


def _same_for_all_adapters(self: PrefixCache, key: Key, tokens: Sequence[int], page: int) -> Any:
    return _edge(self, (key[0], ""), tokens, page)


def _match_all_tokens(self: PrefixCache, key: Key, tokens: Sequence[int]) -> list[int]:
    return _match(self, key, [*tokens, -1])


def _publish_what_is_not_full(
    self: PrefixCache, key: Key, tokens: Sequence[int], table: list[int], first: int, last: int
) -> None:
    n = self.page_tokens
    padded = [*tokens, *[0] * (len(table) * n - len(tokens))]
    _publish(self, key, padded, table, first, min(last + 1, len(table)))


def _keep_the_copy(
    self: PrefixCache, key: Key, tokens: Sequence[int], table: list[int], first: int, last: int
) -> None:
    _publish(self, key, tokens, list(table), first, last)


def _release_twice(self: Pages, pages: Sequence[int]) -> None:
    _release(self, pages)
    _release(self, pages)


def _release_in_reading_order(self: Pages, pages: Sequence[int]) -> None:
    _release(self, list(reversed(pages)))


def _hold_but_leave_evictable(self: Pages, page: int) -> None:
    self._holders[page] += 1


MUTANTS = [
    (PrefixCache, "_edge", _same_for_all_salts),
    (PrefixCache, "_edge", _same_for_all_adapters),
    (PrefixCache, "match", _match_all_tokens),
    (PrefixCache, "publish", _publish_what_is_not_full),
    (PrefixCache, "publish", _keep_the_copy),
    (Pages, "release", _release_twice),
    (Pages, "release", _release_in_reading_order),
    (Pages, "hold", _hold_but_leave_evictable),
]


@pytest.mark.parametrize(
    ("owner", "method", "mutant"), MUTANTS, ids=[m[2].__name__ for m in MUTANTS]
)
def test_the_machine_catches(
    owner: type, method: str, mutant: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, method, mutant)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(PrefixMachine, settings=CATCH)
