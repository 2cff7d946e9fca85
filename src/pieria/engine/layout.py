"""How layers share the cache's memory.

Layers that look equally far back let go of pages together, so they have a page table of their own.
All tables take pages from one pool: a page has memory for a fixed number of layers, and a table
with more layers than that is split. So no memory is set aside for either kind beforehand.

Knows cache specs. Does not know requests or devices.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pieria.models.cache_spec import CacheSpec

LONG = 8192
"""Tokens of a request whose memory matters."""

WASTE = 16
"""At most one in so many bytes of a long request's pages is empty, for the sake of fewer tables."""


@dataclass(frozen=True)
class Place:
    """Where a layer remembers: in which table, at which place within a page."""

    table: int
    slot: int


@dataclass(frozen=True)
class Layout:
    """windows: of each page table. places: of each layer; None where it keeps a state instead.

    slots: layers that a page has memory for. token: what a layer remembers of a token.
    """

    windows: tuple[int | None, ...]
    places: tuple[Place | None, ...]
    slots: int
    specs: tuple[CacheSpec, ...]

    @property
    def tables(self) -> tuple[int | None, ...]:
        """The page table of each layer; None for one that keeps a state."""
        return tuple(None if place is None else place.table for place in self.places)

    def token_bytes(self, stage: range) -> int:
        """Bytes that a token takes in one page table, on a rank with these layers."""
        spec = next(spec for spec in self.specs if spec.token)
        used = {place.slot for i in stage if (place := self.places[i]) is not None}
        return len(used) * sum(a.nbytes for a in spec.token)

    def state_bytes(self, stage: range) -> int:
        """Bytes of one request's state in these layers."""
        return sum(a.nbytes for i in stage for a in self.specs[i].state)


def layout(specs: Sequence[CacheSpec]) -> Layout:
    """ValueError if layers remember tokens in different forms, or none remembers any."""
    paged = [i for i, spec in enumerate(specs) if spec.token]
    if not paged:
        raise ValueError("a model none of whose layers remembers tokens is not served")
    kinds = {specs[i].token for i in paged}
    if len(kinds) > 1:
        raise ValueError(f"layers that remember tokens in different forms are not served: {kinds}")
    by_window: dict[int | None, list[int]] = {}
    for i in paged:
        by_window.setdefault(specs[i].window, []).append(i)
    slots = _slots({window: len(layers) for window, layers in by_window.items()})
    windows: list[int | None] = []
    places: list[Place | None] = [None] * len(specs)
    for window, layers in by_window.items():
        for begin in range(0, len(layers), slots):
            for slot, layer in enumerate(layers[begin : begin + slots]):
                places[layer] = Place(len(windows), slot)
            windows.append(window)
    return Layout(tuple(windows), tuple(places), slots, tuple(specs))


def _slots(layers: Mapping[int | None, int]) -> int:
    """Layers to a page: as many as can be without wasting more than `WASTE` allows.

    layers: how many have each window. A place that stays empty in a table of theirs wastes what a
    long request keeps there.
    """
    kept = {window: LONG if window is None else min(window, LONG) for window in layers}
    total = sum(count * kept[window] for window, count in layers.items())

    def waste(slots: int) -> int:
        return sum(-count % slots * kept[window] for window, count in layers.items())

    return max(n for n in range(1, max(layers.values()) + 1) if waste(n) * WASTE <= total)
