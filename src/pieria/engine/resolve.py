"""From what was asked to what is done, with a reason for each decision: pure functions. Torch-free.

Knows numbers. Does not look at machines or files itself.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from pieria.config import Decision, format_size
from pieria.engine.pages import most_pages
from pieria.engine.runner_config import KV_CACHE_DTYPES, RunnerConfig
from pieria.engine.scheduler import SchedulerConfig

ACTIVATION_BYTES = 256 << 20
"""Kept free for one step's intermediates, or more where the largest step may take more."""

STATES_PER_REQUEST = 4
"""States worth having for each request that may run: two for its steps, the others for prefixes."""


def kept(step: int) -> int:
    """Bytes that are not given to the cache where the largest step takes so many."""
    # Beside a step's own, kernels and libraries keep what they work with.
    return max(ACTIVATION_BYTES, ACTIVATION_BYTES // 2 + step)


def dtype(asked: str, stored: str | None, native: Collection[str]) -> Decision:
    """The dtype to compute in.

    stored: what the files say they hold, None if they are quantized or silent.
    """
    if asked != "auto":
        return Decision("dtype", asked, "asked for")
    if stored is not None:
        if stored in native or stored in ("float32", "float64"):
            return Decision("dtype", stored, "as the model's files have it")
        return Decision(
            "dtype", "float32", f"the files have {stored}, which is slow on this device"
        )
    if "bfloat16" in native:
        return Decision("dtype", "bfloat16", "the files do not say, and this device is fast in it")
    return Decision("dtype", "float32", "the files do not say")


def kv_cache_dtype(asked: str, dtype: str) -> Decision:
    """What keys and values are held in. dtype: what is computed in."""
    held = KV_CACHE_DTYPES[asked]
    if held is None:
        return Decision("kv_cache_dtype", dtype, "as they are computed")
    reason = "asked for; with a float32 scale for each token and head"
    return Decision("kv_cache_dtype", held, reason)


@dataclass(frozen=True)
class Need:
    """What a model takes of one rank's memory, in bytes, and how far back its page tables look.

    page: one page of one page table. state: one request's state; None if the model keeps none. Both
    may be 0, where the layers that are here have none. context: tokens that the model allows. step:
    what the largest step's intermediates may take.
    """

    weights: int
    page: int
    windows: tuple[int | None, ...]
    state: int | None
    context: int
    step: int = 0


@dataclass(frozen=True)
class Sizes:
    """How large the cache is: pages, states of requests, and the longest request in tokens."""

    pages: int
    states: int
    max_model_len: int
    decisions: tuple[Decision, ...]


def cache(
    config: RunnerConfig,
    scheduler: SchedulerConfig,
    need: Need,
    *,
    free_bytes: int,
    free_source: str,
) -> Sizes:
    """How to use the memory that is free before the weights are loaded, and why.

    ValueError, saying what would work, if it does not fit.
    """
    if config.max_model_len is not None and config.max_model_len > need.context:
        raise ValueError(
            f"max_model_len={config.max_model_len} is more than the {need.context} tokens that the"
            " model allows"
        )

    def pages_for(tokens: int) -> int:
        """Pages that one request may need."""
        step = scheduler.max_num_batched_tokens
        return most_pages(need.windows, config.block_size, tokens, step)

    def bytes_for(tokens: int) -> int:
        return need.page * pages_for(tokens)

    state = need.state or 0
    longest = config.max_model_len or need.context
    seqs = scheduler.max_num_seqs
    activations = kept(need.step)
    room = free_bytes - need.weights - activations
    beside = (
        f"beside {format_size(need.weights)} of weights and {format_size(activations)} for"
        f" intermediates; {free_source} allows {format_size(free_bytes)}"
    )
    least = bytes_for(1) + 2 * state
    if room < least:
        raise ValueError(
            f"no page of the cache fits {beside}; a narrower --dtype, more --tensor-parallel-size"
            " or a smaller --max-num-batched-tokens needs less"
        )
    useful = seqs * (bytes_for(longest) + STATES_PER_REQUEST * state)
    if config.kv_cache_memory_bytes is not None:
        size, why = config.kv_cache_memory_bytes, "asked for"
    else:
        size = int(room * config.memory_fraction)
        why = (
            f"{config.memory_fraction:g} of the {format_size(room)} that {free_source}"
            f" leaves beside {format_size(need.weights)} of weights"
        )
        if useful < size:
            size, why = useful, f"{seqs} requests of {longest} tokens need no more"
    if size > room:
        raise ValueError(
            f"a cache of {format_size(size)} does not fit {beside}; give"
            f" --kv-cache-memory-bytes {room} or less"
        )
    # What no layer that is here keeps takes no memory: then there are as many as requests can use.
    pages = seqs * pages_for(longest)
    states = 0 if need.state is None else STATES_PER_REQUEST * seqs
    if state:
        # A step reads one state of a request and writes another; the rest are for prefix hits.
        states = max(2, min(states, size // 2 // state))
    if need.page:
        pages = max(0, size - states * state) // need.page
    tokens = _longest(lambda n: pages_for(n) <= pages, longest)
    wanted = config.max_model_len or 1
    if tokens < wanted:
        # A larger cache has more states: as many as requests can use, but at most half of it.
        most = min(STATES_PER_REQUEST * seqs * state, bytes_for(wanted))
        needed = bytes_for(wanted) + max(2 * state, most)
        shorter = ", or a smaller --max-model-len" if wanted > 1 else ""
        raise ValueError(
            f"a cache of {format_size(size)} holds {tokens} tokens of a request, and {wanted} must"
            f" fit; give --kv-cache-memory-bytes {needed} or more{shorter}"
        )
    length = Decision("max_model_len", str(tokens), "asked for")
    if config.max_model_len is None:
        reason = "what the model allows" if tokens == need.context else "what the cache can hold"
        length = Decision("max_model_len", str(tokens), reason)
    shown = f"{format_size(pages * need.page)}, {pages} pages of {config.block_size} tokens"
    if len(need.windows) > 1:
        shown += f" for {len(need.windows)} page tables"
    if state:
        shown += f", {states} states of {format_size(state)}"
    return Sizes(pages, states, tokens, (Decision("kv cache", shown, why), length))


def _longest(fits: Callable[[int], bool], most: int) -> int:
    """The largest number up to `most` that fits; what is smaller than one that fits, fits."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
