"""What is known of an engine that ended without a word: memory that its front shares. Torch-free.

The engine writes; whoever started it reads, also after its end. Knows ids of requests and bytes.
"""

import mmap
import os
import struct
from collections.abc import Iterable

SIZE = 1 << 20
"""Bytes; ids of a step that do not fit are left out, which takes tens of thousands of requests."""

_PULSE = struct.Struct("<Q")
_LENGTH = struct.Struct("<I")
_STEP = _PULSE.size + _LENGTH.size


class BlackBox:
    """A pulse that goes on while work is done, and the requests of the step that is computed."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self._beats = 0

    @staticmethod
    def within_process() -> "BlackBox":
        """One that threads share."""
        return BlackBox(mmap.mmap(-1, SIZE))

    @staticmethod
    def shared() -> tuple["BlackBox", int]:
        """One that a process shares which inherits this descriptor; the caller closes it."""
        fd = os.memfd_create("engine")
        os.ftruncate(fd, SIZE)
        return BlackBox(mmap.mmap(fd, SIZE)), fd

    @staticmethod
    def inherited(fd: int) -> "BlackBox":
        """The one behind a descriptor, which is closed."""
        memory = mmap.mmap(fd, SIZE)
        os.close(fd)
        return BlackBox(memory)

    def beat(self) -> None:
        """Some work is done."""
        self._beats += 1
        _PULSE.pack_into(self._memory, 0, self._beats)

    def enter(self, requests: Iterable[str]) -> None:
        """A step with these requests begins."""
        ids = "\n".join(requests).encode()
        if len(ids) > SIZE - _STEP:
            ids = ids[: ids.rindex(b"\n", 0, SIZE - _STEP)]
        self._memory[_STEP : _STEP + len(ids)] = ids
        _LENGTH.pack_into(self._memory, _PULSE.size, len(ids))
        self.beat()

    def leave(self) -> None:
        """The step is done."""
        _LENGTH.pack_into(self._memory, _PULSE.size, 0)

    @property
    def beats(self) -> int:
        """A number that changes while work is done."""
        beats: int = _PULSE.unpack_from(self._memory, 0)[0]
        return beats

    @property
    def step(self) -> list[str]:
        """The requests of the step that is computed now, or was when the engine ended."""
        (length,) = _LENGTH.unpack_from(self._memory, _PULSE.size)
        return self._memory[_STEP : _STEP + length].decode().split("\n") if length else []
