"""Every decision, its reason, and what an error says would work."""

import re
from typing import Any

import pytest

from pieria.config import Decision
from pieria.engine import resolve
from pieria.engine.resolve import ACTIVATION_BYTES, Need, Sizes
from pieria.engine.runner_config import RunnerConfig
from pieria.engine.scheduler import SchedulerConfig

FAST = frozenset({"float64", "float32", "bfloat16"})
PLAIN = frozenset({"float64", "float32"})
GIB = 2**30
SLOW = "which is slow on this device"


@pytest.mark.parametrize(
    ("asked", "stored", "native", "value", "reason"),
    [
        ("float16", "bfloat16", FAST, "float16", "asked for"),
        ("bfloat16", None, PLAIN, "bfloat16", "asked for"),
        ("auto", "bfloat16", FAST, "bfloat16", "as the model's files have it"),
        ("auto", "float32", FAST, "float32", "as the model's files have it"),
        ("auto", "float64", frozenset(), "float64", "as the model's files have it"),
        ("auto", "bfloat16", PLAIN, "float32", f"the files have bfloat16, {SLOW}"),
        ("auto", "float16", FAST, "float32", f"the files have float16, {SLOW}"),
        ("auto", None, FAST, "bfloat16", "the files do not say, and this device is fast in it"),
        ("auto", None, PLAIN, "float32", "the files do not say"),
    ],
)
def test_dtype(
    asked: str, stored: str | None, native: frozenset[str], value: str, reason: str
) -> None:
    assert resolve.dtype(asked, stored, native) == Decision("dtype", value, reason)


def cache(free_bytes: int = 10 * GIB, **options: Any) -> Sizes:
    """1000 bytes a token, 1 GiB of weights; options: of RunnerConfig, or these."""
    seqs = options.pop("max_num_seqs", 8)
    windows, state = options.pop("windows", (None,)), options.pop("state", None)
    token = options.pop("token", 1000)
    config = RunnerConfig("m", **options)
    need = Need(GIB, config.block_size * token, windows, state, context=4096)
    scheduler = SchedulerConfig(max_num_seqs=seqs)
    return resolve.cache(config, scheduler, need, free_bytes=free_bytes, free_source="the machine")


def reasons(sizes: Sizes) -> dict[str, tuple[str, str]]:
    return {d.name: (d.value, d.reason) for d in sizes.decisions}


def test_a_share_of_what_is_left_beside_the_weights() -> None:
    free = GIB + ACTIVATION_BYTES + 16_000 * 2000
    sizes = cache(free, max_num_seqs=128)
    assert (sizes.pages, sizes.states, sizes.max_model_len) == (1000, 0, 4096)
    assert reasons(sizes) == {
        "kv cache": (
            "15.26 MiB, 1000 pages of 16 tokens",
            "0.5 of the 30.52 MiB that the machine leaves beside 1 GiB of weights",
        ),
        "max_model_len": ("4096", "what the model allows"),
    }
    assert cache(free, max_num_seqs=128, memory_fraction=0.9).pages == 1800


def test_no_more_than_can_be_used() -> None:
    sizes = cache()
    assert (sizes.pages, sizes.max_model_len) == (8 * 256, 4096)
    assert reasons(sizes)["kv cache"] == (
        "31.25 MiB, 2048 pages of 16 tokens",
        "8 requests of 4096 tokens need no more",
    )
    # Of 100 tokens, each needs 7 pages.
    sizes = cache(max_model_len=100)
    assert (sizes.pages, sizes.max_model_len) == (8 * 7, 100)
    assert reasons(sizes)["max_model_len"] == ("100", "asked for")


def test_a_size_that_was_asked_for() -> None:
    sizes = cache(kv_cache_memory_bytes=16_000 * 300 + 15_999)
    assert (sizes.pages, sizes.max_model_len) == (300, 4096)
    assert reasons(sizes)["kv cache"] == ("4.58 MiB, 300 pages of 16 tokens", "asked for")
    # More than 8 requests can use, but asked for.
    assert cache(kv_cache_memory_bytes=100_000_000).pages == 6250


def test_a_cache_that_is_shorter_than_the_model_shortens_requests() -> None:
    sizes = cache(kv_cache_memory_bytes=16_000 * 10)
    assert (sizes.pages, sizes.max_model_len) == (10, 160)
    assert reasons(sizes)["max_model_len"] == ("160", "what the cache can hold")
    sizes = cache(kv_cache_memory_bytes=1000, block_size=1)
    assert (sizes.pages, sizes.max_model_len) == (1, 1)


def test_all_the_room_there_is() -> None:
    room = 16_000 * 5
    assert cache(GIB + ACTIVATION_BYTES + room, kv_cache_memory_bytes=room).pages == 5
    assert cache(GIB + ACTIVATION_BYTES + room, memory_fraction=1.0).pages == 5


def test_windows_need_fewer_pages() -> None:
    """100 tokens back are 8 pages, and a step of 512 tokens has 32 more."""
    sizes = cache(windows=(None, 100))
    assert sizes.pages == 8 * (256 + 40)
    assert reasons(sizes)["kv cache"][0].endswith("pages of 16 tokens for 2 page tables")
    # Requests of 160 tokens need 10 pages in each table.
    sizes = cache(windows=(None, 100), kv_cache_memory_bytes=16_000 * 20)
    assert (sizes.pages, sizes.max_model_len) == (20, 160)


def test_states_beside_pages() -> None:
    sizes = cache(state=1 << 20, kv_cache_memory_bytes=100 << 20)
    # 4 for each of 8 requests.
    assert sizes.states == 32
    assert sizes.pages == (68 << 20) // 16_000
    assert reasons(sizes)["kv cache"][0].endswith("tokens, 32 states of 1 MiB")
    # At most half of the memory, but always one to read and one to write.
    sizes = cache(state=1 << 20, kv_cache_memory_bytes=10 << 20)
    assert (sizes.states, sizes.pages) == (5, (5 << 20) // 16_000)
    sizes = cache(state=1 << 20, kv_cache_memory_bytes=(2 << 20) + 16_000)
    assert (sizes.states, sizes.pages, sizes.max_model_len) == (2, 1, 16)


def test_a_stage_whose_layers_keep_states_alone_leaves_pages_to_the_others() -> None:
    """It has as many as 8 requests of 4096 tokens can use, at no cost."""
    sizes = cache(token=0, state=1 << 20, kv_cache_memory_bytes=32 << 20)
    assert (sizes.pages, sizes.states, sizes.max_model_len) == (8 * 256, 16, 4096)


def test_a_stage_whose_layers_keep_pages_alone_leaves_states_to_the_others() -> None:
    sizes = cache(state=0, kv_cache_memory_bytes=16_000 * 300)
    assert (sizes.pages, sizes.states) == (300, 4 * 8)
    assert reasons(sizes)["kv cache"][0] == "4.58 MiB, 300 pages of 16 tokens"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"max_model_len": 4097},
            "max_model_len=4097 is more than the 4096 tokens that the model allows",
        ),
        (
            {"free_bytes": GIB + ACTIVATION_BYTES + 15_999},
            "no page of the cache fits beside 1 GiB of weights and 256 MiB for intermediates; the"
            " machine allows 1.25 GiB; a narrower --dtype, more --tensor-parallel-size or a smaller"
            " --max-num-batched-tokens needs"
            " less",
        ),
        ({"free_bytes": 0}, "no page of the cache fits beside 1 GiB of weights"),
        (
            {"kv_cache_memory_bytes": 9 * GIB},
            "a cache of 9 GiB does not fit beside 1 GiB of weights and 256 MiB for intermediates;"
            f" the machine allows 10 GiB; give --kv-cache-memory-bytes {9 * GIB - ACTIVATION_BYTES}"
            " or less",
        ),
        (
            {"kv_cache_memory_bytes": 160_000, "max_model_len": 161},
            "a cache of 156.25 KiB holds 160 tokens of a request, and 161 must fit; give"
            " --kv-cache-memory-bytes 176000 or more, or a smaller --max-model-len",
        ),
        (
            {"kv_cache_memory_bytes": 15_999},
            "a cache of 15.62 KiB holds 0 tokens of a request, and 1 must fit; give"
            " --kv-cache-memory-bytes 16000 or more",
        ),
        (
            {"free_bytes": GIB + ACTIVATION_BYTES + 16_000},
            "a cache of 7.81 KiB holds 0 tokens of a request, and 1 must fit; give"
            " --kv-cache-memory-bytes 16000 or more",
        ),
    ],
)
def test_what_does_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        cache(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"kv_cache_memory_bytes": 9 * GIB},
        {"kv_cache_memory_bytes": 160_000, "max_model_len": 161},
        {"kv_cache_memory_bytes": 15_999},
        {"free_bytes": GIB + ACTIVATION_BYTES + 16_000},
        {"kv_cache_memory_bytes": 160_000, "max_model_len": 161, "windows": (None, 50)},
        {"kv_cache_memory_bytes": 20_000, "max_model_len": 161, "state": 1000},
        {"kv_cache_memory_bytes": 20_000, "max_model_len": 161, "state": 100_000},
        {"kv_cache_memory_bytes": 20_000, "state": 1 << 20},
    ],
)
def test_what_an_error_proposes_works(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as raised:
        cache(**options)
    proposed = re.search(r"--kv-cache-memory-bytes (\d+)", str(raised.value))
    assert proposed is not None
    sizes = cache(**{**options, "kv_cache_memory_bytes": int(proposed[1])})
    assert sizes.pages >= 1 and sizes.max_model_len >= options.get("max_model_len", 1)
