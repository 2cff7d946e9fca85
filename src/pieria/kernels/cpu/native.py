"""The compiled libraries: which one is used, how its kernels are called, and recorded steps.

Knows instruction sets and addresses. Knows no op. A kernel takes one struct of 8-byte values, which
hold pointers, integers and floats in an order that its source states.
"""

import ctypes
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from struct import Struct
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pieria.hardware import cpu

log = logging.getLogger(__name__)

SETS: dict[str, set[str]] = {
    "avx512_bf16": {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16"},
    "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
    "avx2": {"avx2", "fma", "f16c"},
    "portable": set(),
}
"""Library -> what the processor must report, best first."""

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""What kernels call a dtype; the numbers are those of `simd.h`."""


def available() -> list[str]:
    """The libraries that were built and that this processor runs, best first."""
    have = set(cpu.processor().instruction_sets)
    return [name for name, needs in SETS.items() if needs <= have and _path(name).exists()]


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
    """One library, and the step of it that is being recorded."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.functions = ctypes.CDLL(str(_path(name)))
        self.recording: Recording | None = None
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
        if library.recording is not None:
            library.recording.calls.append((function, arguments))
        function(arguments)

    return call


def address(tensor: Tensor | None) -> int:
    """0 for no tensor."""
    return 0 if tensor is None else tensor.data_ptr()


class Recording(TorchDispatchMode):
    """The kernel calls that are made inside, to be made again on the same memory.

    obstacle: the first thing that was computed by something else, so that the calls alone are not
    all there was; None: they are. What is allocated inside stays, as the calls refer to it.
    """

    def __init__(self, library: Library) -> None:
        super().__init__()
        self.calls: list[tuple[Any, bytes]] = []
        self.obstacle: str | None = None
        self._library = library
        self._kept: list[Any] = []
        self._program: Any = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self._kept.append(out)
        allocates = func.overloadpacket.__name__ in ALLOCATIONS
        if not (allocates or func.is_view) and self.obstacle is None:
            self.obstacle = str(func)
        return out

    def replay(self) -> None:
        """Make the calls again, in one call without the interpreter's lock."""
        assert self.obstacle is None, f"{self.obstacle} was not recorded"
        if self._program is None:
            texts = [ctypes.create_string_buffer(a, len(a)) for _, a in self.calls]
            entries = [
                entry
                for (function, _), text in zip(self.calls, texts, strict=True)
                for entry in (ctypes.cast(function, ctypes.c_void_p).value, ctypes.addressof(text))
            ]
            self._program = (ctypes.c_void_p * len(entries))(*entries)
            self._kept.append(texts)
        self._library.functions.pieria_replay(self._program, len(self.calls))


ALLOCATIONS = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")


@contextmanager
def record() -> Iterator[Recording]:
    """Record the kernel calls of this thread's code inside; only one at a time."""
    library = active()
    assert library.recording is None, "a recording is being made"
    recording = Recording(library)
    library.recording = recording
    try:
        with recording:
            yield recording
    finally:
        library.recording = None
