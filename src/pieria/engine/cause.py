"""Errors that end requests, and what a client is told of them. Torch-free.

The kind of error and what was being done; its text is for the log, since it may tell of others.
"""


class EngineDead(Exception):
    """The engine has ended, and no other takes its place. str() is the root cause."""


class RequestFailed(Exception):
    """The engine ended this request with an error. str() is the cause, fit for who asked."""


SHORT = (
    "the memory of this machine ran short: give a smaller --kv-cache-memory-bytes, or a smaller"
    " --max-num-batched-tokens or --max-num-seqs for steps that take less"
)
"""What the log says then."""


def cause(what: str, error: Exception) -> str:
    """what: was being done when it was raised, such as "computing it"."""
    if out_of_memory(error):
        return f"there was not enough memory for {what}"
    return f"{what} failed with {type(error).__name__}"


def out_of_memory(error: Exception) -> bool:
    """Whether it says that an allocation failed."""
    # Torch has a class for that on some devices, and a text on processors.
    return (
        isinstance(error, MemoryError)
        or "OutOfMemory" in type(error).__name__
        or "can't allocate memory" in str(error)
    )
