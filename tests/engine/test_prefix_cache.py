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
from pieria.engine.prefix_cache import ABSENT, Found, Key, PrefixCache, Table
from tests.engine.profiles import CATCH, MANY, MODEST

KEY = ("", "")


def taken(cache: PrefixCache, count: int) -> list[Table]:
    """A table of new pages for each window."""
    tables = [Table() for _ in cache.windows]
    cache.extend(tables, count)
    return tables


def store(cache: PrefixCache, tokens: Sequence[int], key: Key = KEY) -> tuple[int, ...]:
    """Publish all full pages of `tokens` as a request does that computes them all, and let go.

    Its pages in the first table.
    """
    full = len(tokens) // cache.page_tokens
    found = cache.match(key, tokens)
    cache.extend(found.tables, -(-len(tokens) // cache.page_tokens) - found.pages)
    state = cache.states.take(1)[0] if cache.states.count else ABSENT
    state = cache.publish(key, tokens, found.tables, found.pages, full, state)
    pages = found.tables[0].pages
    cache.slide(found.tables, len(tokens))
    give_back(cache, found)
    if state != ABSENT:
        cache.states.release([state])
    cache.check()
    return pages


def give_back(cache: PrefixCache, found: Found) -> None:
    cache.release(found.tables)
    if found.state != ABSENT:
        cache.states.release([found.state])


def found(cache: PrefixCache, tokens: Sequence[int], key: Key = KEY) -> tuple[int, ...]:
    """The pages that `match` finds in the first table, let go again."""
    matched = cache.match(key, tokens)
    give_back(cache, matched)
    assert cache.matched_tokens(key, tokens) == matched.pages * cache.page_tokens
    assert {len(table.pages) for table in matched.tables} == {matched.pages}
    return matched.tables[0].pages


def test_nothing_is_found_in_an_empty_cache() -> None:
    assert found(PrefixCache(4, 2), [1, 2, 3]) == ()


def test_the_longest_beginning_is_found_in_whole_pages() -> None:
    cache = PrefixCache(8, 2)
    table = store(cache, [1, 2, 3, 4, 5])
    assert found(cache, [1, 2, 3, 4, 9]) == table[:2]
    assert found(cache, [1, 2, 3, 9, 9]) == table[:1]
    assert found(cache, [1, 9, 3, 4, 9]) == ()
    assert found(cache, [3, 4, 9]) == (), "a page is found only behind the pages before it"
    assert found(cache, [1, 2, 3, 4, 5, 6]) == table[:2], "a page that was not full is not found"


def test_one_token_is_left_to_compute() -> None:
    cache = PrefixCache(8, 2)
    table = store(cache, [1, 2, 3, 4])
    assert found(cache, [1, 2, 3, 4]) == table[:1]
    assert found(cache, [1, 2, 3, 4, 5]) == table[:2]
    assert found(cache, [1, 2]) == ()
    assert found(cache, [1]) == found(cache, []) == ()


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
        assert found(cache, tokens, key) == ()
        tables[key] = store(cache, tokens, key)[:2]
    assert found(cache, tokens, keys[-1]) == ()
    for key, table in tables.items():
        assert found(cache, tokens, key) == table


def test_a_beginning_published_twice_has_one_page() -> None:
    cache = PrefixCache(8, 2)
    mine, theirs = taken(cache, 3), taken(cache, 3)
    last = theirs[0].pages[2]
    cache.publish(KEY, [1, 2, 3, 4, 5], mine, 0, 2)
    cache.publish(KEY, [1, 2, 3, 4, 6], theirs, 0, 2)
    assert theirs[0].pages == (*mine[0].pages[:2], last)
    assert (cache.pages.held, cache.pages.available) == (4, 4), "the two copies are free"
    cache.release(mine)
    assert (cache.pages.held, cache.pages.cached) == (3, 0)
    cache.release(theirs)
    assert (cache.pages.held, cache.pages.cached) == (0, 2)
    cache.check()


def test_a_copy_of_a_cached_page_brings_it_back() -> None:
    cache = PrefixCache(4, 2)
    tables = taken(cache, 2)
    first = store(cache, [1, 2, 3])[0]
    cache.publish(KEY, [1, 2, 3], tables, 0, 1)
    assert tables[0].pages[0] == first
    assert (cache.pages.held, cache.pages.cached) == (2, 0)


def test_published_a_page_at_a_time_and_all_at_once_is_the_same() -> None:
    cache = PrefixCache(8, 2)
    tokens = [1, 2, 3, 4, 5, 6, 7]
    tables = taken(cache, 4)
    for i in range(3):
        cache.publish(KEY, tokens, tables, i, i + 1)
    cache.publish(KEY, tokens, tables, 3, 3)
    assert found(cache, tokens) == tables[0].pages[:3]


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
    assert cache.match(KEY, [1, 2, 3, 4, 5]) == Found(2, [Table(table[:2])], ABSENT)
    assert cache.pages.available == 2
    cache.pages.take(2)
    assert cache.matched_tokens(KEY, [1, 2, 3, 4, 5]) == 4
    cache.check()


def test_nothing_is_left_of_what_was_evicted() -> None:
    cache = PrefixCache(4, 2)
    for salt in "abcdef":
        store(cache, [1, 2, 3, 4, 5], (salt, ""))
    cache.pages.release(cache.pages.take(4))
    assert (cache.pages.cached, cache._nodes, cache._of_page) == (0, {}, {})
    cache.check()


def test_disabled_it_finds_nothing() -> None:
    cache = PrefixCache(4, 2, enabled=False)
    store(cache, [1, 2, 3, 4, 5])
    assert found(cache, [1, 2, 3, 4, 5]) == ()
    assert (cache.pages.cached, cache.pages.available) == (0, 4)


def test_a_half_full_page_is_refused() -> None:
    cache = PrefixCache(4, 2)
    with pytest.raises(AssertionError, match="full pages"):
        cache.publish(KEY, [1, 2, 3], taken(cache, 2), 0, 2)


# ---- windows ----

TEN = list(range(10))


@pytest.mark.parametrize(
    ("window", "firsts"),
    [
        (None, [0, 0, 0, 0]),
        (1, [0, 0, 1, 2]),
        (2, [0, 0, 1, 2]),
        (3, [0, 0, 1, 2]),
        (4, [0, 0, 1, 2]),
        (5, [0, 0, 0, 1]),
        (7, [0, 0, 0, 1]),
        (8, [0, 0, 0, 0]),
        (100, [0, 0, 0, 0]),
    ],
)
def test_the_first_page_that_the_token_after_so_many_pages_sees(
    window: int | None, firsts: list[int]
) -> None:
    cache = PrefixCache(0, 3)
    assert [cache.first_visible(window, pages) for pages in range(4)] == firsts


def test_pages_outside_a_window_are_let_go() -> None:
    cache = PrefixCache(12, 2, windows=(None, 3))
    tables = taken(cache, 5)
    full, windowed = (table.pages for table in tables)
    cache.publish(KEY, TEN, tables, 0, 4)
    cache.slide(tables, 8)  # token 8 sees 6, 7 and itself
    assert tables == [Table(full), Table((ABSENT,) * 3 + windowed[3:], 3)]
    assert (cache.pages.held, cache.pages.cached) == (7, 3)
    cache.slide(tables, 9)
    assert tables[1].first == 3, "what is left of its page is let go with the page"
    cache.release(tables)
    assert (cache.pages.held, cache.pages.cached) == (0, 8)


def test_pages_let_go_before_they_were_published_are_free() -> None:
    cache = PrefixCache(10, 2, enabled=False, windows=(None, 3))
    tables = taken(cache, 5)
    cache.slide(tables, 8)
    assert (cache.pages.held, cache.pages.cached, cache.pages.available) == (7, 0, 3)


def test_a_beginning_is_found_with_the_pages_that_its_next_token_sees() -> None:
    cache = PrefixCache(20, 2, windows=(None, 5, 1))
    store(cache, TEN)
    matched = cache.match(KEY, [*TEN[:8], 99])
    # Token 8 sees all; tokens 4 to 8; itself alone, but the page before it is kept.
    assert [table.first for table in matched.tables] == [0, 2, 3]
    assert matched.pages == 4
    assert cache.pages.held == 4 + 2 + 1


def evict(cache: PrefixCache, page: int) -> None:
    """Take pages until this one was taken, and give them back."""
    before = cache.pages.available
    kept: list[int] = []
    while page not in kept:
        kept += cache.pages.take(1)
    cache.pages.release(kept)
    assert cache.pages.available == before
    cache.check()


def test_a_beginning_whose_window_has_a_gap_is_not_found() -> None:
    cache = PrefixCache(10, 2, windows=(None, 5))
    tables = taken(cache, 5)
    windowed = tables[1].pages
    cache.publish(KEY, TEN, tables, 0, 5)
    cache.slide(tables, 10)
    assert tables[1].first == 3
    evict(cache, windowed[2])
    for end, matched in [(10, 10), (8, 4), (6, 4), (4, 4), (2, 2)]:
        # Token `end` sees the four before it: of 8 and of 6, page 2 is lost.
        assert cache.matched_tokens(KEY, [*TEN[:end], 99]) == matched
    cache.release(tables)
    cache.check()


def test_a_gap_is_filled_by_who_computes_it_again() -> None:
    cache = PrefixCache(12, 2, windows=(None, 2))
    tables, again = taken(cache, 5), taken(cache, 1)
    full, windowed = (table.pages for table in tables)
    cache.publish(KEY, TEN, tables, 0, 5)
    cache.slide(tables, 10)
    evict(cache, windowed[0])
    assert cache.matched_tokens(KEY, [*TEN[:2], 99]) == 0
    fresh = again[1].pages
    cache.publish(KEY, TEN[:2], again, 0, 1)
    assert again == [Table(full[:1]), Table(fresh)], "one page was there, the other is now"
    assert cache.matched_tokens(KEY, [*TEN[:2], 99]) == 2
    cache.release(tables)
    cache.release(again)
    cache.check()


def test_with_a_page_that_all_tokens_see_the_others_of_its_node_go() -> None:
    cache = PrefixCache(6, 2, windows=(None, 3, None))
    tables = taken(cache, 2)
    cache.publish(KEY, [1, 2, 3, 4], tables, 0, 2)
    cache.release(tables)
    (page,) = cache.pages.take(1)
    assert page == tables[2].pages[1], "the deepest page goes first"
    assert (cache.pages.cached, cache.pages.available) == (3, 5)
    assert cache.matched_tokens(KEY, [1, 2, 3, 4, 5]) == 2
    cache.check()
    cache.pages.take(3)
    assert (cache.pages.cached, cache.pages.available) == (0, 2)
    assert cache._nodes == {}


def test_with_windows_alone_the_beginning_may_be_gone() -> None:
    cache = PrefixCache(10, 2, windows=(3,))
    tables = taken(cache, 4)
    first, second, *rest = tables[0].pages
    cache.publish(KEY, TEN, tables, 0, 4)
    cache.slide(tables, 8)
    evict(cache, first)
    evict(cache, second)
    matched = cache.match(KEY, TEN)
    assert matched == Found(4, [Table((ABSENT,) * 3 + tables[0].pages[3:], 3)], ABSENT)
    assert cache.matched_tokens(KEY, [*TEN[:4], 99]) == 0
    cache.release(matched.tables)
    cache.release(tables)
    cache.pages.take(10)
    assert cache._nodes == {}, "nodes without pages lead somewhere or go"


# ---- states ----


def test_a_beginning_without_a_state_at_its_end_is_not_found() -> None:
    cache = PrefixCache(8, 2, states=4)
    tables = taken(cache, 4)
    (early,) = cache.states.take(1)
    assert cache.publish(KEY, TEN, tables, 0, 2, early) == early
    assert cache.publish(KEY, TEN, tables, 2, 4) == ABSENT
    assert cache.matched_tokens(KEY, TEN) == 4
    matched = cache.match(KEY, TEN)
    assert (matched.pages, matched.state) == (2, early)
    cache.states.release([early])
    assert cache.states.held == 1, "by the match"
    give_back(cache, matched)
    assert (cache.states.held, cache.states.cached) == (0, 1)
    cache.check()


def test_an_evicted_state_leaves_a_shorter_beginning() -> None:
    cache = PrefixCache(8, 2, states=2)
    tables = taken(cache, 4)
    for last in (1, 3):
        state = cache.publish(KEY, TEN, tables, max(0, last - 2), last, *cache.states.take(1))
        cache.states.release([state])
    assert cache.matched_tokens(KEY, TEN) == 6
    cache.states.hold(cache.match(KEY, TEN[:3]).state)
    (state,) = cache.states.take(1)
    assert cache.matched_tokens(KEY, TEN) == 2
    cache.check()
    assert cache.publish(KEY, TEN, taken(cache, 3), 0, 3, state) == state
    assert cache.matched_tokens(KEY, TEN) == 6, "another brings it back"
    cache.check()


def test_a_state_published_twice_is_kept_once() -> None:
    cache = PrefixCache(8, 2, states=3)
    mine, theirs, other = cache.states.take(3)
    assert cache.publish(KEY, TEN[:4], taken(cache, 2), 0, 2, mine) == mine
    assert cache.publish(KEY, TEN[:4], taken(cache, 2), 0, 2, theirs) == mine
    assert (cache.states.held, cache.states.available) == (2, 1)
    cache.states.release([mine, mine, other])
    assert (cache.states.cached, cache.states.available) == (1, 3)
    cache.check()


def test_a_state_goes_with_the_page_that_it_needs() -> None:
    cache = PrefixCache(4, 2, states=3)
    store(cache, [1, 2, 3, 4, 5])
    assert cache.states.cached == 1
    cache.pages.take(4)
    assert (cache.states.cached, cache.states.available) == (0, 3)
    cache.check()


def test_disabled_it_keeps_no_state() -> None:
    cache = PrefixCache(4, 2, enabled=False, states=2)
    (state,) = cache.states.take(1)
    assert cache.publish(KEY, TEN[:4], taken(cache, 2), 0, 2, state) == state
    cache.states.release([state])
    assert cache.states.cached == 0


# ---- random use ----


@dataclass
class Writer:
    """As a request: its pages, and how many of them are full and were offered; its state."""

    key: Key
    tokens: list[int]
    tables: list[Table]
    offered: int
    state: int

    def prefix(self, pages: int, n: int) -> tuple[int, ...]:
        return tuple(self.tokens[: pages * n])


@dataclass
class Entry:
    """What is published of a beginning of text."""

    pages: list[int]
    state: int = ABSENT

    @property
    def kept(self) -> list[int]:
        return [page for page in self.pages if page != ABSENT]


TEXTS = st.one_of(
    st.builds(
        lambda text, end: text[:end], st.sampled_from([[0] * 9, [0, 1] * 4]), st.integers(0, 9)
    ),
    st.lists(st.integers(0, 1), max_size=9),
)
WINDOWS: list[tuple[int | None, ...]] = [
    (None,),
    (None,),
    (None, 3),
    (4, None, 1),
    (None, 2, None),
    (2,),
    (5, 3),
]


class PrefixMachine(RuleBasedStateMachine):
    """The model: (key, beginning of text) -> pages and state, in the order they were let go."""

    @initialize(
        pages=st.integers(1, 10),
        page_tokens=st.integers(1, 3),
        windows=st.sampled_from(WINDOWS),
        states=st.sampled_from([0, 0, 2, 3, 5]),
    )
    def start(
        self, pages: int, page_tokens: int, windows: tuple[int | None, ...], states: int
    ) -> None:
        self.n = page_tokens
        self.windows = windows
        self.cache = PrefixCache(pages * len(windows), page_tokens, True, windows, states)
        self.writers: list[Writer] = []
        self.known: dict[tuple[Key, tuple[int, ...]], Entry] = {}
        self.let_go: list[int] = []
        self.states_let_go: list[int] = []

    def holders(self, page: int) -> int:
        return sum(table.pages.count(page) for w in self.writers for table in w.tables)

    def state_holders(self, state: int) -> int:
        return sum(writer.state == state for writer in self.writers)

    def needed(self, window: int | None, pages: int) -> range:
        """The pages that the token after so many full ones sees, and the one before it."""
        if window is None or pages == 0:
            return range(pages)
        oldest = max(0, pages * self.n - window + 1)
        return range(min(oldest // self.n, pages - 1), pages)

    def usable(self, key: Key, tokens: Sequence[int], pages: int) -> bool:
        path = [self.known.get((key, tuple(tokens[: (i + 1) * self.n]))) for i in range(pages)]
        for number, window in enumerate(self.windows):
            for i in self.needed(window, pages):
                entry = path[i]
                if entry is None or entry.pages[number] == ABSENT:
                    return False
        last = path[-1]
        return not self.cache.states.count or (last is not None and last.state != ABSENT)

    def longest(self, key: Key, tokens: Sequence[int]) -> Found:
        most = (len(tokens) - 1) // self.n
        pages = next((i for i in range(most, 0, -1) if self.usable(key, tokens, i)), 0)
        path = [self.known.get((key, tuple(tokens[: (i + 1) * self.n]))) for i in range(pages)]
        tables = []
        for number, window in enumerate(self.windows):
            needed = self.needed(window, pages)
            row = [e.pages[number] if i in needed and e else ABSENT for i, e in enumerate(path)]
            tables.append(Table(tuple(row), needed.start))
        last = path[-1] if path else None
        return Found(pages, tables, last.state if last else ABSENT)

    @rule(
        key=st.sampled_from([("", ""), ("a", ""), ("", "a")]),
        tokens=TEXTS,
        copies=st.integers(1, 2),
    )
    def begin(self, key: Key, tokens: list[int], copies: int) -> None:
        for _ in range(copies):
            self.begin_one(key, list(tokens))

    def begin_one(self, key: Key, tokens: list[int]) -> None:
        expected = self.longest(key, tokens)
        assert self.cache.matched_tokens(key, tokens) == expected.pages * self.n
        matched = self.cache.match(key, tokens)
        assert matched == expected
        held = {page for table in matched.tables for page in table.pages}
        self.let_go = [page for page in self.let_go if page not in held]
        self.states_let_go = [s for s in self.states_let_go if s != matched.state]
        self.writers.append(Writer(key, tokens, matched.tables, matched.pages, matched.state))
        self.extend(len(self.writers) - 1, 9)

    def extend(self, index: int, pages: int) -> None:
        """Take as many pages as the tokens need and there are."""
        writer = self.writers[index]
        missing = -(-len(writer.tokens) // self.n) - len(writer.tables[0].pages)
        wide = len(self.windows)
        count = min(missing, pages, self.cache.pages.available // wide)
        free = self.cache.pages.available - len(self.let_go)
        while free < count * wide:
            free += self.evict_page(self.let_go.pop(0))
        before = [table.pages for table in writer.tables]
        firsts = [table.first for table in writer.tables]
        self.cache.extend(writer.tables, count)
        taken = [
            p for t, old in zip(writer.tables, before, strict=True) for p in t.pages[len(old) :]
        ]
        assert [t.pages[: len(old)] for t, old in zip(writer.tables, before, strict=True)] == before
        assert [t.first for t in writer.tables] == firsts
        assert {len(table.pages) for table in writer.tables} == {len(before[0]) + count}
        assert len(set(taken)) == count * wide
        assert all(self.holders(page) == 1 for page in taken)
        assert not set(taken) & {page for entry in self.known.values() for page in entry.kept}

    def evict_page(self, page: int) -> int:
        """How many pages are free after this one lost its content."""
        ((place, entry),) = [(k, e) for k, e in self.known.items() if page in e.pages]
        number = entry.pages.index(page)
        entry.pages[number] = ABSENT
        freed = 1
        if self.windows[number] is None:
            key, text = place
            deeper = [t for k, t in self.known if k == key and t[: len(text)] == text]
            assert deeper == [text], "a leaf"
            for other in entry.kept:
                assert not self.holders(other)
                self.let_go.remove(other)
                freed += 1
            if entry.state in self.states_let_go:
                self.states_let_go.remove(entry.state)
            del self.known[place]
        elif not entry.kept and entry.state == ABSENT:
            del self.known[place]
        return freed

    def take_state(self) -> int:
        free = self.cache.states.available - len(self.states_let_go)
        if not free:
            lost = self.states_let_go.pop(0)
            ((place, entry),) = [(k, e) for k, e in self.known.items() if e.state == lost]
            entry.state = ABSENT
            if not entry.kept:
                del self.known[place]
        (state,) = self.cache.states.take(1)
        assert not self.state_holders(state)
        assert state not in [entry.state for entry in self.known.values()]
        return state

    def let_go_state(self, state: int) -> None:
        """After the writer let go of it."""
        if state in [e.state for e in self.known.values()] and not self.state_holders(state):
            self.states_let_go.append(state)

    @precondition(lambda self: self.writers)
    @rule(data=st.data(), pages=st.integers(1, 3), at_border=st.booleans())
    def publish(self, data: st.DataObject, pages: int, at_border: bool) -> None:
        """As after a chunk that ends with the last of these pages, or within the next."""
        writer = data.draw(st.sampled_from(self.writers))
        full = min(len(writer.tables[0].pages), len(writer.tokens) // self.n)
        last = min(full, writer.offered + pages)
        stateful = self.cache.states.count > 0
        if last == writer.offered or (stateful and not self.cache.states.available):
            return
        made = ABSENT
        if stateful:
            made, read = self.take_state(), writer.state
            writer.state = made
            if read != ABSENT:
                self.cache.states.release([read])
                self.let_go_state(read)
        expected = [list(table.pages) for table in writer.tables]
        for i in range(writer.offered, last):
            text = (writer.key, writer.prefix(i + 1, self.n))
            entry = self.known.setdefault(text, Entry([ABSENT] * len(self.windows)))
            for number, row in enumerate(expected):
                if entry.pages[number] == ABSENT:
                    entry.pages[number] = row[i]
                row[i] = entry.pages[number]
                self.let_go = [page for page in self.let_go if page != row[i]]
        offered = made if at_border else ABSENT
        kept = offered
        if offered != ABSENT:
            entry = self.known[writer.key, writer.prefix(last, self.n)]
            kept = entry.state = offered if entry.state == ABSENT else entry.state
            self.states_let_go = [state for state in self.states_let_go if state != kept]
            writer.state = kept
        got = self.cache.publish(
            writer.key, writer.tokens, writer.tables, writer.offered, last, offered
        )
        assert got == kept
        assert [list(table.pages) for table in writer.tables] == expected
        writer.offered = last
        self.slide(writer)

    def slide(self, writer: Writer) -> None:
        """Let go of what no token sees that comes after the pages which were offered."""
        within = min(len(writer.tables[0].pages) * self.n, writer.offered * self.n + self.n - 1)
        before = [table.pages for table in writer.tables]
        self.cache.slide(writer.tables, within)
        for table, window, pages in zip(writer.tables, self.windows, before, strict=True):
            first = self.needed(window, within // self.n).start
            assert table == Table((*[ABSENT] * first, *pages[first:]), first)
            self.released([page for page in pages[:first] if page != ABSENT])

    def released(self, pages: Sequence[int]) -> None:
        """These were let go, the last first."""
        published = {page for entry in self.known.values() for page in entry.kept}
        for page in reversed(pages):
            if page in published and not self.holders(page):
                self.let_go.append(page)

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
        self.cache.release(writer.tables)
        depth = len(writer.tables[0].pages)
        pages = [table.pages[i] for i in range(depth) for table in writer.tables]
        self.released([page for page in pages if page != ABSENT])
        if writer.state != ABSENT:
            self.cache.states.release([writer.state])
            self.let_go_state(writer.state)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "cache"):
            return
        self.cache.check()
        assert list(self.cache.pages._cached) == self.let_go
        assert list(self.cache.states._cached) == self.states_let_go
        known = [page for entry in self.known.values() for page in entry.kept]
        assert sorted(self.cache._of_page) == sorted(known)
        for key, text in self.known:
            expected = self.longest(key, (*text, -1)).pages * self.n
            assert self.cache.matched_tokens(key, (*text, -1)) == expected


class TestPrefixCache(PrefixMachine.TestCase):
    settings = MODEST


@pytest.mark.slow
def test_the_tree_against_the_model_at_length() -> None:
    run_state_machine_as_test(PrefixMachine, settings=MANY)


_edge, _hold, _release = PrefixCache._edge, Pages.hold, Pages.release
_match, _publish, _slide = PrefixCache.match, PrefixCache.publish, PrefixCache.slide
_first_visible, _gap = PrefixCache.first_visible, PrefixCache._gap


def _same_for_all_salts(
    self: PrefixCache, node: Any, key: Key, tokens: Sequence[int], page: int
) -> Any:
    return _edge(self, node, ("", key[1]), tokens, page)


def _same_for_all_adapters(
    self: PrefixCache, node: Any, key: Key, tokens: Sequence[int], page: int
) -> Any:
    return _edge(self, node, (key[0], ""), tokens, page)


def _match_all_tokens(self: PrefixCache, key: Key, tokens: Sequence[int]) -> Found:
    return _match(self, key, [*tokens, -1])


def _publish_what_is_not_full(
    self: PrefixCache,
    key: Key,
    tokens: Sequence[int],
    tables: Sequence[Table],
    first: int,
    last: int,
    state: int = ABSENT,
) -> int:
    pages = len(tables[0].pages)
    padded = [*tokens, *[0] * (pages * self.page_tokens - len(tokens))]
    return _publish(self, key, padded, tables, first, min(last + 1, pages), state)


def _keep_the_copy(
    self: PrefixCache,
    key: Key,
    tokens: Sequence[int],
    tables: Sequence[Table],
    first: int,
    last: int,
    state: int = ABSENT,
) -> int:
    copies = [Table(table.pages, table.first) for table in tables]
    return _publish(self, key, tokens, copies, first, last, state)


def _publish_in_the_first_table_alone(self: PrefixCache, node: Any, number: int, ours: int) -> int:
    return _publish_page(self, node, number, ours) if number == 0 else ours


def _overwrite_the_state(self: PrefixCache, node: Any, ours: int) -> int:
    node.state = ABSENT
    return _publish_state(self, node, ours)


def _slide_too_early(self: PrefixCache, tables: Sequence[Table], computed: int) -> None:
    most = len(tables[0].pages) * self.page_tokens
    _slide(self, tables, min(computed + self.page_tokens, most))


def _slide_too_late(self: PrefixCache, tables: Sequence[Table], computed: int) -> None:
    _slide(self, tables, max(0, computed - self.page_tokens))


def _slide_and_keep(self: PrefixCache, tables: Sequence[Table], computed: int) -> None:
    pages = [page for table in tables for page in table.pages if page != ABSENT]
    _slide(self, tables, computed)
    kept = {page for table in tables for page in table.pages}
    for page in pages:
        if page not in kept and (self.pages._holders[page] or page in self.pages._cached):
            self.pages.hold(page)


def _see_a_page_less(self: PrefixCache, window: int | None, pages: int) -> int:
    first = _first_visible(self, window, pages)
    return first if window is None else min(first + 1, max(0, pages - 1))


def _see_a_page_more(self: PrefixCache, window: int | None, pages: int) -> int:
    return max(0, _first_visible(self, window, pages) - 1)


def _mind_no_gap(self: PrefixCache, path: Sequence[Any], depth: int) -> int | None:
    return depth - 1 if self.states.count and path[depth - 1].state == ABSENT else None


def _mind_no_state(self: PrefixCache, path: Sequence[Any], depth: int) -> int | None:
    states, self.states = self.states, Pages(0, lambda page: None)
    gap = _gap(self, path, depth)
    self.states = states
    return gap


def _leave_the_others(self: PrefixCache, node: Any) -> None:
    pass


def _leave_the_state(self: PrefixCache, node: Any) -> None:
    state, node.state = node.state, ABSENT
    _withdraw(self, node)
    node.state = state


def _leave_dead_nodes(self: PrefixCache, node: Any) -> None:
    pass


def _release_twice(self: Pages, pages: Sequence[int]) -> None:
    _release(self, pages)
    _release(self, pages)


def _release_in_reading_order(self: Pages, pages: Sequence[int]) -> None:
    _release(self, list(reversed(pages)))


def _hold_but_leave_evictable(self: Pages, page: int) -> None:
    self._holders[page] += 1


_publish_page, _publish_state = PrefixCache._publish_page, PrefixCache._publish_state
_withdraw = PrefixCache._withdraw

MUTANTS = [
    (PrefixCache, "_edge", _same_for_all_salts),
    (PrefixCache, "_edge", _same_for_all_adapters),
    (PrefixCache, "match", _match_all_tokens),
    (PrefixCache, "publish", _publish_what_is_not_full),
    (PrefixCache, "publish", _keep_the_copy),
    (PrefixCache, "_publish_page", _publish_in_the_first_table_alone),
    (PrefixCache, "_publish_state", _overwrite_the_state),
    (PrefixCache, "slide", _slide_too_early),
    (PrefixCache, "slide", _slide_too_late),
    (PrefixCache, "slide", _slide_and_keep),
    (PrefixCache, "first_visible", _see_a_page_less),
    (PrefixCache, "first_visible", _see_a_page_more),
    (PrefixCache, "_gap", _mind_no_gap),
    (PrefixCache, "_gap", _mind_no_state),
    (PrefixCache, "_withdraw", _leave_the_others),
    (PrefixCache, "_withdraw", _leave_the_state),
    (PrefixCache, "_prune", _leave_dead_nodes),
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
    """Without the cache's own checks."""
    monkeypatch.setattr(owner, method, mutant)
    monkeypatch.setattr(PrefixCache, "check", lambda self: None)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(PrefixMachine, settings=CATCH)
