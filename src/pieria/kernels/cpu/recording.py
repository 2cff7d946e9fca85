"""Steps recorded as a flat list of kernel calls over fixed memory, and made again in one call.

Knows kernels' calls and what torch does beside them. Knows no op and no model.
"""

import ctypes
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pieria.kernels.cpu import native

ALLOCATIONS = ("empty", "empty_like", "new_empty")
ALIGNMENT = 64
BLOCK_BYTES = 4 << 20

PART = 16
"""Calls from one sign of life to the next: a layer or two."""


class Arena:
    """Memory for what steps make on the way. Recorded steps share it, as one runs at a time.

    What a tensor had that is gone is the next one's of its size, so that it is still in a cache.
    """

    def __init__(self) -> None:
        self._blocks: list[Tensor] = []
        self.rewind()

    def rewind(self) -> None:
        """Give all of it away again."""
        self._block = self._used = 0
        # Addresses, and the blocks they are in, by bytes. What is left of earlier recordings comes
        # back to dictionaries of then.
        self._free: dict[int, list[tuple[int, Tensor]]] = {}

    def like(self, x: Tensor) -> Tensor:
        """A dense tensor of x's shape and dtype."""
        size = x.numel() * x.element_size()
        if size == 0:
            return torch.empty(x.shape, dtype=x.dtype)
        free = self._free.setdefault(size, [])
        place = free.pop() if free else self._take(size)
        held = (ctypes.c_char * size).from_address(place[0])
        weakref.finalize(held, free.append, place).atexit = False
        return torch.frombuffer(held, dtype=x.dtype).view(x.shape)

    def _take(self, size: int) -> tuple[int, Tensor]:
        """Memory that was not used since the arena was rewound."""
        begin = -(-self._used // ALIGNMENT) * ALIGNMENT
        while self._block < len(self._blocks) and begin + size > len(self._blocks[self._block]):
            self._block, begin = self._block + 1, 0
        if self._block == len(self._blocks):
            self._blocks.append(torch.empty(max(size, BLOCK_BYTES), dtype=torch.uint8))
        self._used = begin + size
        block = self._blocks[self._block]
        return block.data_ptr() + begin, block


class Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The kernel calls that are made inside, to be made again on the same memory.

    obstacle: the first thing that was computed by something else, so that the calls alone are not
    all there was; None: they are. at: what `progress` gave then.
    """

    def __init__(self, library: native.Library, arena: Arena, progress: Callable[[], int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.obstacle: str | None = None
        self.at = 0
        self._progress = progress
        self._library = library
        self._arena = arena
        self._calls: list[tuple[Any, bytes]] = []
        self._program: Any = None
        self._kept: list[Any] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: to be skipped by torch's compiler, torch would import it, which takes a second."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.overloadpacket.__name__ in ALLOCATIONS:
            with torch.utils._python_dispatch._disable_current_modes():
                like = func(*args, **{**(kwargs or {}), "device": "meta"})
                return self._arena.like(like)
        out = func(*args, **(kwargs or {}))
        if self.obstacle is None and not (func.is_view and _shares(out, args[0])):
            self.obstacle, self.at = str(func), self._progress()
        return out

    def add(self, function: Any, arguments: bytes) -> None:
        self._calls.append((function, arguments))

    def __len__(self) -> int:
        return len(self._calls)

    def replay(self, beat: Callable[[], None] | None = None) -> None:
        """Make the calls again, in one call and without the interpreter's lock.

        beat: called after every `PART` of them, which are then a call each.
        """
        assert self.obstacle is None, f"{self.obstacle} was not recorded"
        if self._program is None:
            texts = [ctypes.create_string_buffer(a, len(a)) for _, a in self._calls]
            entries = [
                entry
                for (function, _), text in zip(self._calls, texts, strict=True)
                for entry in (ctypes.cast(function, ctypes.c_void_p).value, ctypes.addressof(text))
            ]
            self._program = (ctypes.c_void_p * len(entries))(*entries)
            self._kept.append(texts)
        calls = len(self._calls)
        part = max(calls, 1) if beat is None else PART
        for at in range(0, calls, part):
            begin = ctypes.byref(self._program, at * 2 * ctypes.sizeof(ctypes.c_void_p))
            self._library.functions.pieria_replay(begin, min(part, calls - at))
            if beat is not None:
                beat()


def _shares(out: Any, x: Tensor) -> bool:
    """Whether what came out is x seen otherwise. What may be a view, as `to`, may be a copy."""
    storage = x.untyped_storage().data_ptr()
    found = out if isinstance(out, list | tuple) else (out,)
    return all(part.untyped_storage().data_ptr() == storage for part in found)


@contextmanager
def record(arena: Arena, progress: Callable[[], int]) -> Iterator[Recording]:
    """Record the kernel calls inside; what they make is in `arena`. Only one at a time."""
    library = native.active()
    assert library.recorder is None, "a recording is being made"
    recording = Recording(library, arena, progress)
    arena.rewind()
    library.recorder = recording.add
    try:
        with recording:
            yield recording
    finally:
        library.recorder = None
