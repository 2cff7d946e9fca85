"""Which pages already hold what is remembered of a beginning of text. Torch-free.

A radix tree whose edges are one page of tokens long: the path to a node spells the tokens that the
node's pages end with. A node has a page in each page table of a request (layers with different
windows have tables of their own), and a state if the model keeps one per request. The first edge of
a path also has (salt, adapter), so that requests share only within one tenant and one set of
weights. Tokens are compared, not hashes of them: there are no collisions.

All edges are in one dictionary and a node knows its parent alone, so there are no circles in the
tree, and the garbage collector never walks through it, however large it gets.

A beginning is usable if everything that the next token looks at is there: every page where layers
look at all tokens, the last ones where they look through a window, and the state at its end.

Knows tokens, pages and states. Does not know requests, nor what a page's content is.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

import msgspec

from pieria.engine.pages import Pages

Key = tuple[str, str]
"""(salt, adapter id)."""

Edge = tuple[str | int, ...]
"""A page of tokens after the number of the node that it leaves, or after (salt, adapter id) if it
is the first.
"""

ABSENT = -1
"""In place of a page or state that is not there."""


@dataclass
class Table:
    """A request's pages in one page table, in the order of its tokens.

    Those before `first` were let go, because no later token sees them; ABSENT stands for them.
    All tables of a request are equally long.
    """

    pages: tuple[int, ...] = ()
    first: int = 0


@dataclass(frozen=True)
class Found:
    """What `match` found, held by the caller. pages: how many, in tokens' order."""

    pages: int
    tables: list[Table]
    state: int


class _Node(msgspec.Struct, gc=False):
    """number: never used again. parent: None for those that first edges lead to.

    children: how many. kept: how many pages and states it has.
    """

    number: int
    parent: "_Node | None"
    edge: Edge
    pages: tuple[int, ...]
    state: int = ABSENT
    children: int = 0
    kept: int = 0


class PrefixCache:
    """Pages of `page_tokens` tokens, states, and the tree of those that are published.

    windows: of each page table, how many tokens back its layers look; None: all. states: how many
    states there are; 0 for a model without. A caller holds what `match`, `extend` and `states.take`
    gave it until it gives it back. With `enabled` False nothing is ever published, so nothing is
    ever found.
    """

    def __init__(
        self,
        pages: int,
        page_tokens: int,
        enabled: bool = True,
        windows: tuple[int | None, ...] = (None,),
        states: int = 0,
    ) -> None:
        self.page_tokens = page_tokens
        self.enabled = enabled
        self.windows = windows
        self.pages = Pages(pages, self._forget_page)
        self.states = Pages(states, self._forget_state)
        self._nodes: dict[Edge, _Node] = {}
        self._last_number = 0
        self._nothing = (ABSENT,) * len(windows)
        self._of_page: dict[int, tuple[_Node, int]] = {}
        self._of_state: dict[int, _Node] = {}

    def match(self, key: Key, tokens: Sequence[int]) -> Found:
        """The longest usable published beginning of `tokens`, now held by the caller.

        At least one token is left to compute: its logits are wanted.
        """
        path = self._usable(key, tokens)
        tables = []
        for number, window in enumerate(self.windows):
            first = self.first_visible(window, len(path))
            held = [node.pages[number] for node in path[first:]]
            for page in held:
                self.pages.hold(page)
            tables.append(Table((*[ABSENT] * first, *held), first))
        state = path[-1].state if path and self.states.count else ABSENT
        if state != ABSENT:
            self.states.hold(state)
        return Found(len(path), tables, state)

    def matched_tokens(self, key: Key, tokens: Sequence[int]) -> int:
        """How many tokens `match` would find, holding nothing."""
        return len(self._usable(key, tokens)) * self.page_tokens

    def extend(self, tables: Sequence[Table], count: int) -> None:
        """`count` more pages for each table of a request."""
        taken = self.pages.take(count * len(tables))
        for i, table in enumerate(tables):
            table.pages += tuple(taken[i * count : (i + 1) * count])

    def publish(
        self,
        key: Key,
        tokens: Sequence[int],
        tables: Sequence[Table],
        first: int,
        last: int,
        state: int = ABSENT,
    ) -> int:
        """Offer pages [first, last) of a request's tables, full and computed; those before were.

        state: what the request remembers at the end of page last - 1, if it keeps a state. Where
        another request has published the same tokens already, its pages replace ours in the tables
        and ours are let go: one beginning has one page in each table, and one state. Returns the
        state to go on from.
        """
        if not self.enabled or first == last:
            return state
        # A request holds its last full page in every table, so that node is there.
        node = self._of_page[tables[0].pages[first - 1]][0] if first else None
        nodes = []
        for i in range(first, last):
            edge = self._edge(node, key, tokens, i)
            # Most nodes are new, and looking up an edge costs as much as making a node.
            new = _Node(self._last_number + 1, node, edge, self._nothing)
            child = self._nodes.setdefault(edge, new)
            if child is new:
                self._last_number += 1
                if node is not None:
                    node.children += 1
            nodes.append(child)
            node = child
        for number, table in enumerate(tables):
            ours = table.pages[first:last]
            kept = tuple(map(self._publish_page, nodes, repeat(number), ours))
            if kept != ours:
                table.pages = (*table.pages[:first], *kept, *table.pages[last:])
        return state if state == ABSENT else self._publish_state(nodes[-1], state)

    def release(self, tables: Sequence[Table]) -> None:
        """Give back all pages of a request."""
        by_depth = zip(*(table.pages for table in tables), strict=True)
        self.pages.release([page for pages in by_depth for page in pages if page != ABSENT])

    def slide(self, tables: Sequence[Table], computed: int) -> None:
        """Let go of the pages that no token from the page of number `computed` on sees."""
        for table, window in zip(tables, self.windows, strict=True):
            first = self.first_visible(window, computed // self.page_tokens)
            if first > table.first:
                self.pages.release(table.pages[table.first : first])
                table.pages = (*[ABSENT] * first, *table.pages[first:])
                table.first = first

    def first_visible(self, window: int | None, pages: int) -> int:
        """The first page that the token after `pages` full ones sees.

        The last full page counts as seen through the narrowest window too: the tree goes on there.
        """
        if window is None:
            return 0
        return max(0, (pages * self.page_tokens - max(window, 2) + 1) // self.page_tokens)

    def flush(self) -> int:
        """Forget what nobody holds; how many pages that were."""
        before = self.pages.cached
        self.states.flush()
        self.pages.flush()
        return before

    def check(self) -> None:
        """The tree, the pages and the states agree; AssertionError otherwise."""
        self.pages.check()
        self.states.check()
        pages: list[int] = []
        states: list[int] = []
        children: Counter[int] = Counter()
        for edge, node in self._nodes.items():
            assert node.edge == edge
            assert len(edge) == self.page_tokens + (2 if node.parent is None else 1)
            if node.parent is not None:
                assert self._nodes[node.parent.edge] is node.parent
                assert edge[0] == node.parent.number
                children[node.parent.number] += 1
            kept = [p for p in node.pages if p != ABSENT]
            assert all(self._of_page[p][0] is node for p in kept)
            assert node.kept == len(kept) + (node.state != ABSENT)
            assert node.children or node.kept, "a node that leads to nothing"
            for page, window in zip(node.pages, self.windows, strict=True):
                assert window is not None or page != ABSENT, "all pages of a beginning"
            pages += kept
            if node.state != ABSENT:
                assert self._of_state[node.state] is node
                states.append(node.state)
        assert all(node.children == children[node.number] for node in self._nodes.values())
        assert sorted(pages) == sorted(self._of_page)
        assert len(pages) == sum(self.pages._published)
        assert sorted(states) == sorted(self._of_state)
        assert len(states) == sum(self.states._published)

    def _usable(self, key: Key, tokens: Sequence[int]) -> list[_Node]:
        """The path to the deepest node at which a request can go on."""
        path: list[_Node] = []
        node = None
        for i in range((len(tokens) - 1) // self.page_tokens):
            node = self._nodes.get(self._edge(node, key, tokens, i))
            if node is None:
                break
            path.append(node)
        depth = len(path)
        while depth and (gap := self._gap(path, depth)) is not None:
            depth = gap
        return path[:depth]

    def _gap(self, path: Sequence[_Node], depth: int) -> int | None:
        """The deepest node of path[:depth] that lacks what the token after them needs; else None.

        Where layers see all tokens, no node lacks its page.
        """
        if self.states.count and path[depth - 1].state == ABSENT:
            return depth - 1
        for number, window in enumerate(self.windows):
            if window is not None:
                for i in range(depth - 1, self.first_visible(window, depth) - 1, -1):
                    if path[i].pages[number] == ABSENT:
                        return i
        return None

    def _publish_page(self, node: _Node, number: int, ours: int) -> int:
        """The page of this node to go on with, held by the caller."""
        pages = node.pages
        theirs = pages[number]
        if theirs == ABSENT:
            node.pages = _replaced(pages, number, ours)
            node.kept += 1
            self._of_page[ours] = node, number
            self.pages.publish(ours)
            return ours
        self.pages.hold(theirs)
        self.pages.release([ours])
        return theirs

    def _publish_state(self, node: _Node, ours: int) -> int:
        """The state of this node to go on from, held by the caller."""
        if node.state == ABSENT:
            node.state = ours
            node.kept += 1
            self._of_state[ours] = node
            self.states.publish(ours)
            return ours
        self.states.hold(node.state)
        self.states.release([ours])
        return node.state

    def _edge(self, node: _Node | None, key: Key, tokens: Sequence[int], page: int) -> Edge:
        n = self.page_tokens
        block = tokens[page * n : (page + 1) * n]
        assert len(block) == n, "only full pages are published"
        return (*key, *block) if node is None else (node.number, *block)

    def _forget_page(self, page: int) -> None:
        node, number = self._of_page.pop(page)
        node.pages = _replaced(node.pages, number, ABSENT)
        node.kept -= 1
        if self.windows[number] is None:
            assert not node.children, "a page is evicted before the pages that continue it"
            if node.kept:
                self._withdraw(node)
        self._prune(node)

    def _forget_state(self, state: int) -> None:
        node = self._of_state.pop(state)
        node.state = ABSENT
        node.kept -= 1
        self._prune(node)

    def _withdraw(self, node: _Node) -> None:
        """Nothing can be found through this node any more: what else it has is of no use."""
        for page in node.pages:
            if page != ABSENT:
                del self._of_page[page]
                self.pages.withdraw(page)
        node.pages = self._nothing
        if node.state != ABSENT:
            del self._of_state[node.state]
            self.states.withdraw(node.state)
            node.state = ABSENT
        node.kept = 0

    def _prune(self, node: _Node) -> None:
        """Take out nodes that lead to nothing."""
        at: _Node | None = node
        while at is not None and not (at.children or at.kept):
            del self._nodes[at.edge]
            at = at.parent
            if at is not None:
                at.children -= 1


def _replaced(pages: tuple[int, ...], number: int, page: int) -> tuple[int, ...]:
    """`pages` with this one at place `number`."""
    return (page,) if len(pages) == 1 else (*pages[:number], page, *pages[number + 1 :])
