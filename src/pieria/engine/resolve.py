"""From what was asked to what is done, with a reason for each decision: pure functions. Torch-free.

Knows numbers. Does not look at machines or files itself.
"""

from collections.abc import Collection

from pieria.config import Decision, format_size
from pieria.engine.runner_config import RunnerConfig

ACTIVATION_BYTES = 256 << 20
"""Kept free for one step's intermediates."""


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


def cache(
    config: RunnerConfig,
    *,
    context: int,
    token_bytes: int,
    weight_bytes: int,
    free_bytes: int,
    free_source: str,
    max_num_seqs: int,
) -> tuple[int, int, tuple[Decision, ...]]:
    """Pages, max_model_len, and why.

    context: tokens that the model allows. token_bytes: what a token takes in all layers on one
    rank. free_bytes: what may be used before the weights are loaded. ValueError, saying what would
    work, if it does not fit.
    """
    page_bytes = config.block_size * token_bytes
    if config.max_model_len is not None and config.max_model_len > context:
        raise ValueError(
            f"max_model_len={config.max_model_len} is more than the {context} tokens that the model"
            " allows"
        )
    longest = config.max_model_len or context
    room = free_bytes - weight_bytes - ACTIVATION_BYTES
    beside = (
        f"beside {format_size(weight_bytes)} of weights and {format_size(ACTIVATION_BYTES)} for"
        f" intermediates; {free_source} allows {format_size(free_bytes)}"
    )
    if room < page_bytes:
        raise ValueError(
            f"no page of the cache fits {beside}; a narrower --dtype or more --tensor-parallel-size"
            " needs less"
        )
    if config.kv_cache_memory_bytes is not None:
        size, why = config.kv_cache_memory_bytes, "asked for"
    else:
        size = int(room * config.memory_fraction)
        why = (
            f"{config.memory_fraction:g} of the {format_size(room)} that {free_source}"
            f" leaves beside {format_size(weight_bytes)} of weights"
        )
        useful = max_num_seqs * -(-longest // config.block_size) * page_bytes
        if useful < size:
            size, why = useful, f"{max_num_seqs} requests of {longest} tokens need no more"
    pages = size // page_bytes
    tokens = pages * config.block_size
    if size > room:
        raise ValueError(
            f"a cache of {format_size(size)} does not fit {beside}; give"
            f" --kv-cache-memory-bytes {room} or less"
        )
    least = config.max_model_len or 1
    if tokens < least:
        needed = -(-least // config.block_size) * page_bytes
        shorter = ", or a smaller --max-model-len" if least > 1 else ""
        raise ValueError(
            f"a cache of {format_size(size)} holds {tokens} tokens, and {least} must fit;"
            f" give --kv-cache-memory-bytes {needed} or more{shorter}"
        )
    length = Decision("max_model_len", str(longest), "asked for")
    if config.max_model_len is None:
        reason = "what the model allows" if tokens >= context else "what the cache can hold"
        longest = min(context, tokens)
        length = Decision("max_model_len", str(longest), reason)
    shown = f"{format_size(pages * page_bytes)}, {pages} pages of {config.block_size} tokens"
    return pages, longest, (Decision("kv cache", shown, why), length)
