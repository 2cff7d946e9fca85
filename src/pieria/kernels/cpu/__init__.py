"""Kernels in C++ for processors, one source an op, compiled for several instruction sets.

They take raw pointers and shapes, link to nothing of torch, and share one pool of threads.
"""

import logging

from pieria.kernels.cpu import native
from pieria.kernels.cpu.recording import Arena, record

__all__ = ["DEVICES", "Arena", "configure", "record"]

DEVICES = ("cpu",) if native.available() else ()
"""None where they were not built, which needs a C++ compiler when the package is installed."""

if not DEVICES:
    logging.getLogger(__name__).warning(
        "the C++ kernels were not built, so slower ones are used; with a C++ compiler,"
        " installing this package again builds them"
    )


def configure(threads: int, isa: str | None) -> str:
    """Compute on this many threads, with the best instruction set or the one that is named.

    Returns the instruction set. ValueError, naming those there are, if it is not one of them.
    """
    if isa is not None:
        native.use(isa)
    native.use_threads(threads)
    return native.active().name
