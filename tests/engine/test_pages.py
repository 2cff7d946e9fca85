"""Pages against a naive list of who holds what and in which order it was let go."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pieria.engine.pages import Pages, most_pages
from tests.engine.profiles import CATCH, MANY, MODEST, STEADY


def make(count: int = 4) -> tuple[Pages, list[int]]:
    evicted: list[int] = []
    return Pages(count, evicted.append), evicted


def test_all_pages_are_free_at_first() -> None:
    pages, _ = make(4)
    assert (pages.count, pages.available, pages.held, pages.cached) == (4, 4, 0, 0)
    assert sorted(pages.take(4)) == [0, 1, 2, 3]
    assert (pages.available, pages.held) == (0, 4)


def test_no_pages_is_a_pool_too() -> None:
    pages, _ = make(0)
    assert pages.take(0) == []
    pages.check()


def test_an_unpublished_page_is_free_after_its_holder_and_a_published_one_is_cached() -> None:
    pages, evicted = make(2)
    first, second = pages.take(2)
    pages.publish(first)
    pages.release([first, second])
    assert (pages.available, pages.held, pages.cached) == (2, 0, 1)
    assert pages.take(1) == [second]
    assert not evicted
    assert pages.take(1) == [first]
    assert evicted == [first]


def test_a_page_stays_until_its_last_holder_lets_go() -> None:
    pages, _ = make(1)
    (page,) = pages.take(1)
    pages.publish(page)
    pages.hold(page)
    pages.release([page])
    assert (pages.held, pages.cached) == (1, 0)
    pages.release([page])
    assert (pages.held, pages.cached) == (0, 1)
    pages.hold(page)
    assert (pages.held, pages.cached, pages.available) == (1, 0, 0)


def test_the_deepest_page_of_the_sequence_let_go_first_is_evicted_first() -> None:
    pages, evicted = make(6)
    old, new = pages.take(3), pages.take(3)
    for page in [*new, *old]:
        pages.publish(page)
    pages.release(old)
    pages.release(new)
    pages.take(6)
    assert evicted == [*reversed(old), *reversed(new)]


def test_holding_a_cached_page_makes_it_recent() -> None:
    pages, evicted = make(3)
    a, b, c = pages.take(3)
    for page in (a, b, c):
        pages.publish(page)
        pages.release([page])
    pages.hold(a)
    pages.release([a])
    pages.take(3)
    assert evicted == [b, c, a]


def test_an_evicted_page_is_no_longer_published() -> None:
    pages, _ = make(1)
    (page,) = pages.take(1)
    pages.publish(page)
    pages.release([page])
    assert pages.take(1) == [page]
    pages.release([page])
    assert pages.cached == 0


def test_a_page_withdrawn_while_cached_is_free_and_nobody_is_told() -> None:
    pages, evicted = make(2)
    first, second = pages.take(2)
    pages.publish(first)
    pages.release([first, second])
    pages.withdraw(first)
    assert (pages.available, pages.held, pages.cached) == (2, 0, 0)
    assert sorted(pages.take(2)) == [0, 1]
    assert not evicted


def test_a_page_withdrawn_while_held_is_free_after_its_holder() -> None:
    pages, _ = make(1)
    (page,) = pages.take(1)
    pages.publish(page)
    assert pages.published(page)
    pages.withdraw(page)
    assert not pages.published(page)
    assert (pages.held, pages.cached) == (1, 0)
    pages.release([page])
    assert (pages.held, pages.cached, pages.available) == (0, 0, 1)


def test_evicting_a_page_may_withdraw_others() -> None:
    """As when a node of the prefix tree goes: no more is evicted than is needed then."""
    pages = Pages(4, lambda page: [pages.withdraw(other) for other in with_it.pop(page)])
    a, b, c, d = pages.take(4)
    with_it = {a: [b, c]}
    for page in (a, b, c, d):
        pages.publish(page)
        pages.release([page])
    assert sorted(pages.take(3)) == [a, b, c]
    assert (pages.held, pages.cached, pages.available) == (3, 1, 1)
    pages.check()


def _withdraw_twice(pages: Pages, page: int) -> None:
    pages.publish(page)
    pages.withdraw(page)
    pages.withdraw(page)


def _release_twice(pages: Pages, page: int) -> None:
    pages.release([page])
    pages.release([page])


def _publish_twice(pages: Pages, page: int) -> None:
    pages.publish(page)
    pages.publish(page)


def _hold_free(pages: Pages, page: int) -> None:
    pages.release([page])
    pages.hold(page)


def _publish_free(pages: Pages, page: int) -> None:
    pages.release([page])
    pages.publish(page)


@pytest.mark.parametrize(
    "mistake",
    [
        _release_twice,
        _publish_twice,
        _withdraw_twice,
        _hold_free,
        _publish_free,
        lambda pages, page: pages.take(2),
    ],
)
def test_mistakes_of_the_caller_are_refused(mistake: Callable[[Pages, int], object]) -> None:
    pages, _ = make(2)
    (page,) = pages.take(1)
    with pytest.raises(AssertionError):
        mistake(pages, page)


WINDOWS = st.lists(st.none() | st.integers(1, 12), min_size=1, max_size=3)


def seen_pages(window: int | None, n: int, computed: int, count: int) -> int:
    """Pages that tokens [computed, computed + count) are in, or see from their first page on."""
    begin = computed // n * n
    oldest = 0 if window is None else max(0, min(begin - window + 1, begin - 1))
    return len({position // n for position in range(oldest, computed + count)})


@STEADY
@given(WINDOWS, st.integers(1, 5), st.integers(1, 40), st.integers(1, 14))
def test_most_pages_is_what_the_worst_step_needs(
    windows: list[int | None], n: int, tokens: int, step: int
) -> None:
    steps = [(c, k) for c in range(tokens) for k in range(1, min(step, tokens - c) + 1)]
    peak = max(sum(seen_pages(w, n, c, k) for w in windows) for c, k in steps)
    most = most_pages(windows, n, tokens, step)
    assert peak <= most <= peak + 2 * len(windows)
    if len(windows) == 1 and tokens >= (windows[0] or 0) + step + 2 * n:
        assert most == peak


def test_most_pages_of_known_cases() -> None:
    assert most_pages([None], 16, 4096, 2048) == 256
    assert most_pages([None], 16, 4097, 1) == 257
    # The 1023 tokens before one, in 64 pages, and a step of one token.
    assert most_pages([1024], 16, 4096, 1) == 65
    assert most_pages([1024], 16, 100, 1) == 7
    assert most_pages([None, 1024, 1024], 16, 4096, 2048) == 256 + 2 * (64 + 1 + 128)


class PagesMachine(RuleBasedStateMachine):
    """The model: owners with lists of pages, what is published, and the order of release."""

    @initialize(count=st.integers(0, 8))
    def start(self, count: int) -> None:
        self.count = count
        self.evicted: list[int] = []
        self.pages = Pages(count, self.evicted.append)
        self.owners: list[list[int]] = []
        self.published: set[int] = set()
        self.cached: list[int] = []

    def held(self) -> set[int]:
        return {page for owner in self.owners for page in owner}

    @rule(count=st.integers(0, 8))
    def take(self, count: int) -> None:
        free = self.count - len(self.held()) - len(self.cached)
        count = min(count, self.pages.available)
        lost = self.cached[: max(0, count - free)]
        self.evicted.clear()
        taken = self.pages.take(count)
        assert self.evicted == lost, "the least recently released first"
        del self.cached[: len(lost)]
        self.published -= set(lost)
        assert len(set(taken)) == len(taken) == count
        assert not set(taken) & (self.held() | set(self.cached)), "nobody's page is handed out"
        self.owners.append(taken)

    @precondition(lambda self: self.held() or self.cached)
    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        page = data.draw(st.sampled_from(sorted(self.held() | set(self.cached))))
        self.pages.hold(page)
        if page in self.cached:
            self.cached.remove(page)
        self.owners.append([page])

    @precondition(lambda self: self.owners)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        owner = self.owners.pop(data.draw(st.integers(0, len(self.owners) - 1)))
        self.pages.release(owner)
        still = self.held()
        self.cached += [p for p in reversed(owner) if p in self.published and p not in still]

    @precondition(lambda self: self.held() - self.published)
    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        page = data.draw(st.sampled_from(sorted(self.held() - self.published)))
        self.pages.publish(page)
        self.published.add(page)

    @precondition(lambda self: self.published)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        page = data.draw(st.sampled_from(sorted(self.published)))
        self.pages.withdraw(page)
        self.published.remove(page)
        if page in self.cached:
            self.cached.remove(page)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "pages"):
            return
        self.pages.check()
        assert self.pages.held == len(self.held())
        assert self.pages.cached == len(self.cached)
        assert self.pages.available == self.count - len(self.held())
        assert {p for p in range(self.count) if self.pages.published(p)} == self.published


class TestPages(PagesMachine.TestCase):
    settings = MODEST


@pytest.mark.slow
def test_pages_against_the_model_at_length() -> None:
    run_state_machine_as_test(PagesMachine, settings=MANY)


def _release_in_reading_order(self: Pages, pages: Sequence[int]) -> None:
    _release(self, list(reversed(pages)))


def _hold_but_leave_evictable(self: Pages, page: int) -> None:
    self._holders[page] += 1


def _take_the_newest(self: Pages, count: int) -> list[int]:
    if len(self._free) < count <= self.available:
        self._cached.move_to_end(next(reversed(self._cached)), last=False)
    return _take(self, count)


def _take_and_forget_to_tell(self: Pages, count: int) -> list[int]:
    evicted, self._evicted = self._evicted, lambda page: None
    taken = _take(self, count)
    self._evicted = evicted
    return taken


def _free_what_is_shared(self: Pages, pages: Sequence[int]) -> None:
    _release(self, pages)
    self._free += [p for p in pages if self._holders[p]]


def _withdraw_but_keep(self: Pages, page: int) -> None:
    self._published[page] = False


def _withdraw_into_the_free(self: Pages, page: int) -> None:
    self._published[page] = False
    self._cached.pop(page, None)
    self._free.append(page)


_release, _take = Pages.release, Pages.take

MUTANTS = [
    ("release", _release_in_reading_order),
    ("release", _free_what_is_shared),
    ("hold", _hold_but_leave_evictable),
    ("take", _take_the_newest),
    ("take", _take_and_forget_to_tell),
    ("withdraw", _withdraw_but_keep),
    ("withdraw", _withdraw_into_the_free),
]


@pytest.mark.parametrize(
    ("method", "mutant"), MUTANTS, ids=lambda value: getattr(value, "__name__", value)
)
def test_the_machine_catches(
    method: str, mutant: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pages, method, mutant)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(PagesMachine, settings=CATCH)
