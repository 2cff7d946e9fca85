"""What a tensor in a file is: where its bytes lie and how they encode numbers. Torch-free.

Does not read the numbers; `tensor_reader` does.
"""

from dataclasses import dataclass
from math import prod
from pathlib import Path


@dataclass(frozen=True)
class NumberFormat:
    """How numbers become bytes: `block` successive elements of a row take `block_bytes` bytes."""

    name: str
    block: int
    block_bytes: int


@dataclass(frozen=True)
class StoredTensor:
    """shape: row-major, the last dimension varies fastest. offset: bytes from the file's start."""

    path: Path
    shape: tuple[int, ...]
    format: NumberFormat
    offset: int

    @property
    def byte_count(self) -> int:
        return prod(self.shape) // self.format.block * self.format.block_bytes
