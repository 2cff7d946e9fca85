"""Who holds which page of the cache. Torch-free.

Knows page numbers and how many hold each. Does not know tokens, requests or bytes.

Every page is in exactly one of three states:

    free    nobody holds it, its content means nothing
    held    by one or more requests; it may be published as well
    cached  published, held by nobody: kept for a later hit, taken back when pages run short

`release` hands pages back deepest first, and whoever holds a page holds every page before it in its
sequence, but for those that are out of its layers' window. So in `_cached`, which is ordered by
when pages were let go, a page comes after all that cannot be used without it: taking from the front
evicts the least recently used leaf, without looking at the tree.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence


class Pages:
    """A fixed number of pages. `evicted(page)` is called when a cached page loses its content."""

    def __init__(self, count: int, evicted: Callable[[int], None]) -> None:
        self.count = count
        self._evicted = evicted
        self._free = list(range(count - 1, -1, -1))
        self._holders = [0] * count
        self._published = [False] * count
        self._cached: OrderedDict[int, None] = OrderedDict()

    @property
    def available(self) -> int:
        """How many `take` can hand out."""
        return len(self._free) + len(self._cached)

    @property
    def cached(self) -> int:
        return len(self._cached)

    @property
    def held(self) -> int:
        return self.count - self.available

    def take(self, count: int) -> list[int]:
        """Pages with meaningless content, each held once by the caller; free ones first."""
        assert count <= self.available, f"{count} pages wanted, {self.available} available"
        while len(self._free) < count:
            page, _ = self._cached.popitem(last=False)
            self._published[page] = False
            self._evicted(page)
            self._free.append(page)
        taken = [self._free.pop() for _ in range(count)]
        for page in taken:
            self._holders[page] = 1
        return taken

    def flush(self) -> int:
        """Make all cached pages free; how many there were."""
        count = len(self._cached)
        while self._cached:
            page, _ = self._cached.popitem(last=False)
            self._published[page] = False
            self._evicted(page)
            self._free.append(page)
        return count

    def hold(self, page: int) -> None:
        """One holder more, of a page that is held or cached."""
        assert self._holders[page] or page in self._cached, f"page {page} is free"
        self._holders[page] += 1
        self._cached.pop(page, None)

    def release(self, pages: Sequence[int]) -> None:
        """One holder less for each of a sequence's pages, given in the order of its tokens."""
        for page in reversed(pages):
            assert self._holders[page] > 0, f"page {page} is held by nobody"
            self._holders[page] -= 1
            if self._holders[page] == 0:
                if self._published[page]:
                    self._cached[page] = None
                else:
                    self._free.append(page)

    def publish(self, page: int) -> None:
        """Keep this held page's content after its last holder lets go."""
        assert self._holders[page] and not self._published[page]
        self._published[page] = True

    def published(self, page: int) -> bool:
        """Whether others may use its content, so that it must not change."""
        return self._published[page]

    def withdraw(self, page: int) -> None:
        """Keep a published page's content no longer than its holders do."""
        assert self._published[page]
        self._published[page] = False
        if page in self._cached:
            del self._cached[page]
            self._free.append(page)

    def check(self) -> None:
        """Free, held and cached partition all pages; AssertionError otherwise."""
        free, cached = set(self._free), set(self._cached)
        held = {p for p in range(self.count) if self._holders[p]}
        assert len(free) == len(self._free), "a page is free twice"
        assert len(free) + len(cached) + len(held) == self.count
        assert not (free & cached or free & held or cached & held)
        assert all(self._published[p] for p in cached)
        assert not any(self._published[p] for p in free)
        assert all(n >= 0 for n in self._holders)


def most_pages(
    windows: Sequence[int | None], page_tokens: int, tokens: int, step_tokens: int
) -> int:
    """Pages that a request of so many tokens may need at once, in tables with these windows.

    step_tokens: most tokens of a step; what it computes is remembered before older pages are let
    go.
    """
    whole = -(-tokens // page_tokens)
    most = 0
    for window in windows:
        # Full pages that the step's first token sees, the one that it lies in, and those after it.
        seen = whole if window is None else -(-(max(window, 2) - 1) // page_tokens)
        most += min(whole, seen + 1 + -(-(step_tokens - 1) // page_tokens))
    return most
