"""Numbers from weight files into tensors, a block at a time. Knows number formats, no file formats.

However large a tensor, it takes one block of at most `BLOCK_BYTES` and what decoding that takes.
Bytes are read, not mapped, so that a file's pages never count as the process's own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from io import FileIO
from math import prod

import torch
from torch import Tensor

from pieria.models.stored_tensor import NumberFormat, StoredTensor
from pieria.ops import Weight
from pieria.ops.formats import Parts, ggml

BLOCK_BYTES = 128 << 10

INTEGERS: Mapping[str, torch.dtype] = {
    "U8": torch.uint8,
    "I8": torch.int8,
    "I32": torch.int32,
    "I64": torch.int64,
}
"""They hold numbers in a way that only who reads them knows: read as they are, and only so."""


def _blocks(parts: Callable[[Tensor], Parts]) -> Callable[[Tensor], Tensor]:
    return lambda blocks_NB: parts(blocks_NB).values()


def _plain(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda blocks_NB: blocks_NB.view(dtype)


DECODERS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "F64": _plain(torch.float64),
    "F32": _plain(torch.float32),
    "F16": _plain(torch.float16),
    "BF16": _plain(torch.bfloat16),
    "F8_E4M3": _plain(torch.float8_e4m3fn),
    "F8_E5M2": _plain(torch.float8_e5m2),
    **{name: _plain(dtype) for name, dtype in INTEGERS.items()},
    **{name: _blocks(parts) for name, parts in ggml.PARTS.items()},
}
"""NumberFormat.name -> uint8 [blocks, bytes of a block] to [blocks, elements of a block]."""


class TensorReader:
    """Tensors by name, of one or several files; a `TensorFile`."""

    def __init__(self, tensors: Mapping[str, StoredTensor]) -> None:
        self._tensors = tensors

    def names(self) -> list[str]:
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._stored(name).shape

    def kind(self, name: str) -> str:
        """The name of its number format."""
        return self._stored(name).format.name

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def blocks(self, name: str) -> NumberFormat | None:
        numbers = self._stored(name).format
        return numbers if numbers.name in ggml.PARTS else None

    def read_into(self, name: str, out: Tensor, first: Sequence[int] = ()) -> None:
        """Copy a box of the tensor into `out`, in out's dtype and device.

        The box has out's shape and begins at element `first`; where that is empty, at the tensor's
        own first. ValueError for an unknown name, a format without a decoder, or an `out` that does
        not fit; OSError if the file became shorter.
        """
        stored = self._stored(name)
        if out.dtype == torch.uint8 and self.blocks(name):
            stored = _bytes_of(stored)
        kind = stored.format.name
        asked = next((name for name, dtype in INTEGERS.items() if dtype == out.dtype), None)
        if kind not in DECODERS or (kind if kind in INTEGERS else None) != asked:
            known = asked or ", ".join(name for name in DECODERS if name not in INTEGERS)
            raise ValueError(
                f"{stored.path}: tensor {name!r} holds {kind} numbers; supported are: {known}"
            )
        begin = tuple(first) or (0,) * len(stored.shape)
        fits = len(begin) == out.ndim == len(stored.shape) and all(
            0 <= low <= length - size
            for low, size, length in zip(begin, out.shape, stored.shape, strict=True)
        )
        if not fits:
            raise ValueError(
                f"{stored.path}: tensor {name!r} of shape {stored.shape} has no"
                f" {tuple(out.shape)} from {begin} on"
            )
        if not stored.shape:
            out, begin = out.reshape(1), (0,)
        with stored.path.open("rb", buffering=0) as file, torch.no_grad():
            _Copy(file, stored).copy(stored.offset, stored.shape or (1,), out, begin)

    def held(
        self,
        name: str,
        shape: Sequence[int],
        first: Sequence[int],
        dtype: torch.dtype,
        turned: bool = False,
    ) -> Weight | None:
        """None: what a tensor's numbers are to be multiplied with, only others know."""
        return None

    def _stored(self, name: str) -> StoredTensor:
        if name not in self._tensors:
            raise ValueError(f"there is no tensor {name!r} among the {len(self._tensors)} stored")
        return self._tensors[name]


def _bytes_of(stored: StoredTensor) -> StoredTensor:
    """The same with a block's bytes in place of its elements."""
    *outer, inner = stored.shape
    row = inner // stored.format.block * stored.format.block_bytes
    return replace(stored, shape=(*outer, row), format=NumberFormat("U8", 1, 1))


class _Copy:
    """One open file and one buffer."""

    def __init__(self, file: FileIO, stored: StoredTensor) -> None:
        self.file, self.path, self.numbers = file, stored.path, stored.format
        self.limit = BLOCK_BYTES // self.numbers.block_bytes
        self.buffer_NB = torch.empty(self.limit, self.numbers.block_bytes, dtype=torch.uint8)
        self.view: memoryview = self.buffer_NB.numpy().data.cast("B")

    def copy(
        self, offset: int, shape: tuple[int, ...], out: Tensor, first: tuple[int, ...]
    ) -> None:
        """As `read_into`, of a tensor of this shape whose bytes begin at `offset`."""
        while len(shape) > 2 and out.shape[-1] == shape[-1] and out.is_contiguous():
            # Rows that are wanted whole lie one behind the other.
            first = (*first[:-2], first[-2] * shape[-1])
            shape, out = (*shape[:-2], shape[-2] * shape[-1]), out.flatten(-2)
        if len(shape) == 1:
            self.matrix(offset, shape[0], out.unsqueeze(0), first[0])
            return
        inside = self.bytes_of(prod(shape[1:]))
        offset += first[0] * inside
        if len(shape) == 2:
            self.matrix(offset, shape[1], out, first[1])
            return
        for i, part in enumerate(out):
            self.copy(offset + i * inside, shape[1:], part, first[1:])

    def matrix(self, offset: int, width: int, out_RC: Tensor, first: int) -> None:
        """Columns [first, first + C) of R rows that are `width` elements long in the file.

        A row's part is widened to whole blocks; short rows are gathered and long ones split, so
        that about `limit` blocks are decoded at a time.
        """
        numbers = self.numbers
        rows, columns = out_RC.shape
        last_block = -(-(first + columns) // numbers.block)
        for begin in range(first // numbers.block, last_block, self.limit):
            blocks = min(self.limit, last_block - begin)
            low = max(first, begin * numbers.block)
            high = min(first + columns, (begin + blocks) * numbers.block)
            gathered = self.limit // blocks
            for row in range(0, rows, gathered):
                count = min(gathered, rows - row)
                at = offset + row * self.bytes_of(width) + begin * numbers.block_bytes
                self.fill(at, count, blocks, self.bytes_of(width))
                decoded = DECODERS[numbers.name](self.buffer_NB[: count * blocks])
                wide = decoded.reshape(count, blocks * numbers.block)
                part = wide[:, low - begin * numbers.block : high - begin * numbers.block]
                out_RC[row : row + count, low - first : high - first].copy_(part)

    def fill(self, at: int, rows: int, blocks: int, row_bytes: int) -> None:
        """Read `blocks` blocks of each of `rows` rows into the buffer, the first's at byte `at`."""
        length = blocks * self.numbers.block_bytes
        if length == row_bytes:
            rows, length = 1, rows * length
        for row in range(rows):
            self.file.seek(at + row * row_bytes)
            part = self.view[row * length : (row + 1) * length]
            while part:
                read = self.file.readinto(part)
                if not read:
                    raise OSError(f"{self.path}: the file has become shorter than its header says")
                part = part[read:]

    def bytes_of(self, elements: int) -> int:
        return elements // self.numbers.block * self.numbers.block_bytes
