"""Which pages already hold the keys and values of a beginning of text. Torch-free.

A radix tree whose edges are one page of tokens long: the path to a node spells the tokens whose
keys and values the node's page ends with. The first edge spells (salt, adapter) too, so that
requests share pages only within one tenant and one set of weights. Tokens are compared, not hashes
of them: there are no collisions.

Knows tokens and pages. Does not know requests, nor what a page's content is.
"""

from collections.abc import Sequence

from pieria.engine.pages import Pages

Key = tuple[str, str]
"""(salt, adapter id)."""

Edge = tuple[object, ...]
"""A page of tokens; the first of a text is preceded by its key."""


class _Node:
    """A published page. siblings: the children of the node before, this one among them."""

    __slots__ = ("children", "edge", "page", "siblings")

    def __init__(self, siblings: "dict[Edge, _Node]", edge: Edge, page: int) -> None:
        self.siblings = siblings
        self.edge = edge
        self.page = page
        self.children: dict[Edge, _Node] = {}


class PrefixCache:
    """Pages of `page_tokens` tokens and the tree of those that are published.

    A caller holds the pages that `match` and `pages.take` gave it until it gives them to
    `pages.release`. With `enabled` False nothing is ever published, so nothing is ever found.
    """

    def __init__(self, pages: int, page_tokens: int, enabled: bool = True) -> None:
        self.page_tokens = page_tokens
        self.enabled = enabled
        self.pages = Pages(pages, self._forget)
        self._first: dict[Edge, _Node] = {}
        self._nodes: dict[int, _Node] = {}

    def match(self, key: Key, tokens: Sequence[int]) -> list[int]:
        """The pages of the longest published beginning of `tokens`, now held by the caller.

        At least one token is left to compute: its logits are wanted.
        """
        found = self._walk(key, tokens)
        for page in found:
            self.pages.hold(page)
        return found

    def matched_tokens(self, key: Key, tokens: Sequence[int]) -> int:
        """How many tokens `match` would find, holding nothing."""
        return len(self._walk(key, tokens)) * self.page_tokens

    def publish(
        self, key: Key, tokens: Sequence[int], table: list[int], first: int, last: int
    ) -> None:
        """Offer pages [first, last) of a request's `table`, full and computed; those before were.

        Where another request has published the same tokens already, its page replaces ours in
        `table` and ours is let go: one beginning has one page.
        """
        if not self.enabled or first >= last:
            return
        children = self._nodes[table[first - 1]].children if first else self._first
        for i in range(first, last):
            edge = self._edge(key, tokens, i)
            node = children.get(edge)
            if node is None:
                node = children[edge] = self._nodes[table[i]] = _Node(children, edge, table[i])
                self.pages.publish(table[i])
            else:
                self.pages.hold(node.page)
                self.pages.release([table[i]])
                table[i] = node.page
            children = node.children

    def check(self) -> None:
        """The tree and the pages agree; AssertionError otherwise."""
        self.pages.check()
        seen = []
        stack = [self._first]
        while stack:
            children = stack.pop()
            for edge, node in children.items():
                assert node.siblings is children and node.edge == edge
                key_length = 2 if children is self._first else 0
                assert len(edge) == key_length + self.page_tokens, "a published page is full"
                assert self._nodes[node.page] is node
                seen.append(node.page)
                stack.append(node.children)
        assert sorted(seen) == sorted(self._nodes)
        assert len(seen) == sum(self.pages._published)

    def _walk(self, key: Key, tokens: Sequence[int]) -> list[int]:
        found: list[int] = []
        children = self._first
        for i in range((len(tokens) - 1) // self.page_tokens):
            node = children.get(self._edge(key, tokens, i))
            if node is None:
                break
            found.append(node.page)
            children = node.children
        return found

    def _edge(self, key: Key, tokens: Sequence[int], page: int) -> Edge:
        n = self.page_tokens
        block = tuple(tokens[page * n : (page + 1) * n])
        assert len(block) == n, "only full pages are published"
        return block if page else (*key, *block)

    def _forget(self, page: int) -> None:
        node = self._nodes.pop(page)
        assert not node.children, "a page is evicted before the pages that continue it"
        del node.siblings[node.edge]
