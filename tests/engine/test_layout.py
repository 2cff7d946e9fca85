"""Where layers remember: tables by window, places within a page, and what it saves."""

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from zlib import crc32

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pieria.engine.layout import LONG, WASTE, Layout, Place, layout
from pieria.engine.messages import Add
from pieria.engine.plan import Chunk, ChunkResult, StepResult
from pieria.engine.prefix_cache import ABSENT, PrefixCache
from pieria.engine.sampling_params import SamplingParams
from pieria.engine.scheduler import Scheduler, SchedulerConfig
from pieria.models.cache_spec import Array, CacheSpec
from tests.engine.profiles import STEADY

TOKEN = (Array("k", (2, 8), torch.float16), Array("v", (2, 4), torch.float16))
TOKEN_BYTES = 2 * (8 + 4) * 2
STATE = CacheSpec(state=(Array("state", (4, 8), torch.float32), Array("last", (3,), torch.float16)))
STATE_BYTES = 4 * 8 * 4 + 3 * 2


def windowed(*windows: int | None) -> list[CacheSpec]:
    return [CacheSpec(TOKEN, window) for window in windows]


def gemma(layers: int, every: int = 6, window: int = 1024) -> list[CacheSpec]:
    """Every so many layers, one sees all tokens."""
    return windowed(*(None if i % every == every - 1 else window for i in range(layers)))


def test_equal_layers_have_one_table() -> None:
    made = layout(windowed(*[None] * 30))
    assert (made.windows, made.slots) == ((None,), 30)
    assert made.places == tuple(Place(0, i) for i in range(30))
    assert made.tables == (0,) * 30
    assert made.token_bytes(range(30)) == 30 * TOKEN_BYTES
    assert made.state_bytes(range(30)) == 0


def test_five_layers_with_a_window_to_one_without() -> None:
    made = layout(gemma(12))
    assert made.slots == 2
    assert made.windows == (*[1024] * 5, None)
    # The first ten layers with a window in pairs, and the two that see all.
    assert made.tables == (0, 0, 1, 1, 2, 5, 2, 3, 3, 4, 4, 5)
    assert [place.slot for place in made.places if place] == [0, 1, 0, 1, 0, 0, 1, 0, 1, 0, 1, 1]
    assert made.token_bytes(range(12)) == 2 * TOKEN_BYTES


@pytest.mark.parametrize(
    ("specs", "slots", "tables"),
    [
        (gemma(26, window=512), 4, 7),  # Gemma 3 1B: 22 and 4
        (gemma(34), 5, 7),  # 4B: 29 and 5
        (gemma(48), 8, 6),  # 12B: 40 and 8
        (gemma(62), 10, 7),  # 27B: 52 and 10
        (gemma(24, every=2, window=128), 12, 2),  # gpt-oss 20B
        (windowed(*[4096] * 32), 32, 1),  # Mistral 7B v0.1
    ],
)
def test_published_models(specs: list[CacheSpec], slots: int, tables: int) -> None:
    made = layout(specs)
    assert (made.slots, len(made.windows)) == (slots, tables)


def test_layers_with_a_state_have_no_place() -> None:
    made = layout([STATE, STATE, CacheSpec(TOKEN), STATE, STATE, CacheSpec(TOKEN)])
    assert made.windows == (None,)
    assert made.tables == (None, None, 0, None, None, 0)
    assert made.token_bytes(range(6)) == 2 * TOKEN_BYTES
    assert made.state_bytes(range(6)) == 4 * STATE_BYTES


def test_a_stage_counts_its_own_layers() -> None:
    made = layout([STATE, *windowed(None, 8, 8), STATE, *windowed(None)])
    # Two layers to a page: the first of each table is in the first stage, the second not.
    assert made.tables == (None, 0, 1, 1, None, 0)
    assert made.token_bytes(range(3)) == TOKEN_BYTES, "both are at the first place"
    assert made.token_bytes(range(3, 6)) == TOKEN_BYTES
    assert made.token_bytes(range(2, 4)) == 2 * TOKEN_BYTES
    assert [made.state_bytes(range(n)) for n in (0, 1, 4, 5)] == [
        0,
        STATE_BYTES,
        STATE_BYTES,
        2 * STATE_BYTES,
    ]
    assert made.token_bytes(range(1)) == 0


def test_places_stay_empty_if_that_saves_tables() -> None:
    """Where a window keeps little of a long request, its empty places cost little."""
    assert layout(windowed(*[None] * 8, *[LONG // 64] * 12)).slots == 8
    assert layout(windowed(*[None] * 8, *[LONG] * 12)).slots == 4
    assert layout(windowed(*[None] * 12, *[LONG // 64] * 8)).slots == 12
    assert layout(windowed(*[None] * 16, *[LONG] * 15)).slots == 16, "one in 31 is little"


def test_what_is_not_served() -> None:
    with pytest.raises(ValueError, match="none of whose layers remembers tokens is not served"):
        layout([STATE, STATE])
    other = CacheSpec((Array("latent", (24,), torch.float16),))
    with pytest.raises(ValueError, match="in different forms are not served"):
        layout([CacheSpec(TOKEN), other])


def empty_bytes(made: Layout, slots: int) -> tuple[int, int]:
    """(tokens in places that stay empty, in those that do not) of a long request."""
    layers = Counter(spec.window for spec in made.specs if spec.token)
    kept = {window: min(window or LONG, LONG) for window in layers}
    empty = sum((-(-n // slots) * slots - n) * kept[window] for window, n in layers.items())
    return empty, sum(n * kept[window] for window, n in layers.items())


@STEADY
@given(
    st.lists(
        st.sampled_from([None, None, 7, 512, 4096, 10 * LONG, "state"]), min_size=1, max_size=60
    ).filter(lambda kinds: set(kinds) != {"state"})
)
def test_every_layer_has_a_place_of_its_own(kinds: list[int | None | str]) -> None:
    specs = [STATE if k == "state" else CacheSpec(TOKEN, k) for k in kinds]  # type: ignore[arg-type]
    made = layout(specs)
    for kind, place in zip(kinds, made.places, strict=True):
        assert (place is None) == (kind == "state")
        if place is not None:
            assert made.windows[place.table] == kind
            assert 0 <= place.slot < made.slots
    places = [place for place in made.places if place is not None]
    assert len(set(places)) == len(places)
    assert {place.table for place in places} == set(range(len(made.windows)))
    empty, used = empty_bytes(made, made.slots)
    assert empty * WASTE <= used
    for more in range(made.slots + 1, max(Counter(kinds).values()) + 1):
        empty, used = empty_bytes(made, more)
        assert empty * WASTE > used, f"{more} layers to a page would do"


# ---- what it saves ----

PAGE_TOKENS = 16
LENGTH = 32_768


class Paper:
    """A runner of pages alone: notes which text each page holds the end of, and reads it back."""

    def __init__(self, windows: Sequence[int | None]) -> None:
        self.windows = windows
        self.noted: dict[int, tuple[int, int]] = {}

    def write(self, chunk: Chunk, text: Sequence[int]) -> None:
        sums = list(
            accumulate(text, lambda before, t: crc32(t.to_bytes(4, "big"), before), initial=0)
        )
        for table, (window, pages) in enumerate(zip(self.windows, chunk.tables, strict=True)):
            oldest = 0 if window is None else max(0, chunk.start - window + 1)
            for i in range(oldest // PAGE_TOKENS, -(-chunk.start // PAGE_TOKENS)):
                end = min(chunk.start, (i + 1) * PAGE_TOKENS)
                assert self.noted[pages[i]] == (table, sums[end]), f"page {i} of table {table}"
            for i in range(chunk.start // PAGE_TOKENS, -(-chunk.end // PAGE_TOKENS)):
                end = min(chunk.end, (i + 1) * PAGE_TOKENS)
                self.noted[pages[i]] = (table, sums[end])


def serve(
    scheduler: Scheduler, paper: Paper, tokens: Sequence[int], more: int = 1
) -> tuple[int, int]:
    """Where the first chunk of a request starts, and the most pages that it holds."""
    add = Add("a", tuple(tokens), SamplingParams(ignore_eos=True), 0, more)
    scheduler.add(add)
    text = [*tokens, *[1] * more]
    starts, held = [], []
    while not scheduler.idle:
        plan = scheduler.plan()
        (chunk,) = plan.chunks
        paper.write(chunk, text)
        starts.append(chunk.start)
        held.append(scheduler.cache.pages.held)
        result = ChunkResult("a", None if chunk.draw is None else 1)
        scheduler.commit(plan, StepResult((result,)))
    scheduler.check()
    return starts[0], max(held)


@pytest.mark.parametrize("window", [512, 1024])
def test_a_long_request_takes_a_quarter_of_the_memory(window: int) -> None:
    """Of what it takes where no layer has a window; and what it leaves is found, exactly."""
    text = array("i", [i * i % 50_021 for i in range(LENGTH - 64)]).tolist()
    specs = gemma(34, window=window)
    taken = []
    for kept in (specs, [replace(spec, window=None) for spec in specs]):
        made = layout(kept)
        page = PAGE_TOKENS * made.token_bytes(range(34))
        cache = PrefixCache(len(made.windows) * 2200, PAGE_TOKENS, True, made.windows)
        scheduler = Scheduler(SchedulerConfig(max_num_seqs=1), cache, frozenset(), LENGTH)
        paper = Paper(made.windows)
        start, pages = serve(scheduler, paper, text, 64)
        taken.append(pages * page)
        assert start == 0
        # The whole text, and one that shares half of it.
        assert serve(scheduler, paper, [*text, *[1] * 40])[0] == len(text) + 32
        assert serve(scheduler, paper, [*text[:16_000], 7])[0] == 16_000
    assert taken[1] == LENGTH * 34 * TOKEN_BYTES
    assert taken[0] <= taken[1] / 4


def test_a_long_request_fits_where_its_pages_are_used_again() -> None:
    """With no page to spare: what it let go of is lost, and nothing wrong is found."""
    text = [i * i % 50_021 for i in range(8192)]
    made = layout(gemma(34, window=512))
    config = SchedulerConfig(max_num_seqs=1, max_num_batched_tokens=256)
    cache = PrefixCache(512 + 6 * (32 + 1 + 16), PAGE_TOKENS, True, made.windows)
    scheduler = Scheduler(config, cache, frozenset(), LENGTH)
    paper = Paper(made.windows)
    assert serve(scheduler, paper, text[:-40], 40)[0] == 0
    assert serve(scheduler, paper, [*text[:-40], *[1] * 30])[0] == 8176
    assert serve(scheduler, paper, [*text[:4096], 7])[0] == 0
    assert ABSENT not in paper.noted
