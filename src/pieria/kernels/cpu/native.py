"""The compiled libraries: which one is used, and how its kernels are called.

Knows instruction sets and addresses. Knows no op. A kernel takes one struct of 8-byte values, which
hold pointers, integers and floats in an order that its source states.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path
from struct import Struct
from typing import Any

import torch
from torch import Tensor

from pieria.hardware import cpu

SETS: dict[str, set[str]] = {
    "avx512_bf16": {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16"},
    "avx512_vnni": {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"},
    "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
    "avx2": {"avx2", "fma", "f16c"},
    "portable": set(),
}
"""Library -> what the processor must report, best first."""

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""What kernels call a dtype; the numbers are those of `simd.h`."""

ROUNDED = {torch.int8: 1, torch.float8_e4m3fn: 2}
"""What they call that of a cache whose numbers have scales; 0: it has none."""


def available() -> list[str]:
    """The libraries that were built and that this processor runs, best first."""
    processor = cpu.processor()
    have = set(processor.instruction_sets)
    names = [name for name, needs in SETS.items() if needs <= have and _path(name).exists()]
    if processor.vendor == "Intel" and "avx512_bf16" in names:
        # Its products of pairs run at half the rate of two products of single numbers (measured on
        # a Sapphire Rapids; AMD's at twice).
        names.remove("avx512_bf16")
        names.insert(sum(name in ("avx512_vnni", "avx512") for name in names[:1]), "avx512_bf16")
    return names


def use(name: str) -> None:
    """Call kernels of this library from now on; what another has packed is not to be used then.

    ValueError, naming those there are, if it was not built or the processor lacks what it needs.
    """
    if name not in available():
        there = ", ".join(available()) or "none, as they were not built"
        raise ValueError(f"no kernels for the instruction set {name!r}; there are: {there}")
    _active[:] = [_library(name)]


def active() -> "Library":
    """The library whose kernels are called: the best one unless `use` chose another."""
    if not _active:
        use(available()[0])
    return _active[0]


_active: list["Library"] = []


def use_threads(count: int) -> None:
    """Kernels run on this many threads, the caller's included; no kernel may be running."""
    active().functions.pieria_threads(count)


class Library:
    """One library. recorder: told of every call, where a step is recorded."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.functions = ctypes.CDLL(str(_path(name)))
        self.recorder: Callable[[Any, bytes], None] | None = None
        self.functions.pieria_threads.argtypes = [ctypes.c_int64]
        self.functions.pieria_threads.restype = None
        self.functions.pieria_replay.argtypes = [ctypes.c_void_p, ctypes.c_int64]
        self.functions.pieria_replay.restype = None
        self._kernels: dict[str, Any] = {}

    def function(self, name: str) -> Any:
        """The kernel's entry, which takes the packed struct."""
        found = self._kernels.get(name)
        if found is None:
            found = getattr(self.functions, f"pieria_{name}")
            found.argtypes, found.restype = [ctypes.c_char_p], None
            self._kernels[name] = found
        return found


def _path(name: str) -> Path:
    return Path(__file__).parent / "lib" / f"{name}.so"


@cache
def _library(name: str) -> Library:
    return Library(name)


@cache
def kernel(name: str, layout: str) -> Callable[..., None]:
    """How to call a kernel: with a value for each letter of `layout`, as in `struct`.

    P: an address (`address(tensor)`), q: an integer, d: a float.
    """
    pack = Struct(layout).pack

    def call(*values: int | float) -> None:
        library, arguments = active(), pack(*values)
        function = library.function(name)
        if library.recorder is not None:
            library.recorder(function, arguments)
        function(arguments)

    return call


def address(tensor: Tensor | None) -> int:
    """0 for no tensor."""
    return 0 if tensor is None else tensor.data_ptr()
