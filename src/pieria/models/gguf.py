"""GGUF files, versions 2 and 3, little-endian: metadata and where each tensor lies. Torch-free.

Source: docs/gguf.md of ggml. Does not know what the keys mean, nor how blocks encode numbers.

The file is not trusted: every count, length and offset is checked against the bytes that are left
before anything is allocated from it; every fault is a ValueError that names file, field and byte.
"""

import mmap
import struct
import sys
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from pieria.models.stored_tensor import NumberFormat, StoredTensor

MAX_HEADER_BYTES = 1 << 30
"""Metadata and tensor descriptions together; the largest vocabularies take some 30 MB."""

MAX_DIMENSIONS = 4
MAX_KEY_BYTES = 65535
MAX_NESTING = 8
MAX_ELEMENTS = 2**63 - 1

FORMATS: Mapping[int, NumberFormat] = {
    number: NumberFormat(name, block, block_bytes)
    for number, name, block, block_bytes in [
        (0, "F32", 1, 4),
        (1, "F16", 1, 2),
        (2, "Q4_0", 32, 18),
        (3, "Q4_1", 32, 20),
        (6, "Q5_0", 32, 22),
        (7, "Q5_1", 32, 24),
        (8, "Q8_0", 32, 34),
        (10, "Q2_K", 256, 84),
        (11, "Q3_K", 256, 110),
        (12, "Q4_K", 256, 144),
        (13, "Q5_K", 256, 176),
        (14, "Q6_K", 256, 210),
        (16, "IQ2_XXS", 256, 66),
        (17, "IQ2_XS", 256, 74),
        (18, "IQ3_XXS", 256, 98),
        (19, "IQ1_S", 256, 50),
        (20, "IQ4_NL", 32, 18),
        (21, "IQ3_S", 256, 110),
        (22, "IQ2_S", 256, 82),
        (23, "IQ4_XS", 256, 136),
        (24, "I8", 1, 1),
        (25, "I16", 1, 2),
        (26, "I32", 1, 4),
        (27, "I64", 1, 8),
        (28, "F64", 1, 8),
        (29, "IQ1_M", 256, 56),
        (30, "BF16", 1, 2),
        (34, "TQ1_0", 256, 54),
        (35, "TQ2_0", 256, 66),
        (39, "MXFP4", 32, 17),
        (40, "NVFP4", 64, 36),
        (41, "Q1_0", 128, 18),
        (42, "Q2_0", 64, 18),
    ]
}
"""enum ggml_type -> format. Others were withdrawn, are newer than this, or occur in no file."""

NUMBERS: Mapping[int, str] = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    10: "Q",
    11: "q",
    12: "d",
}
"""enum gguf_metadata_value_type -> struct code, of the numeric types."""

BOOL, STRING, ARRAY = 7, 8, 9


@dataclass(frozen=True)
class GgufFile:
    """metadata: numbers, booleans, strings; arrays are `array.array` of numbers, else lists."""

    path: Path
    version: int
    metadata: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]


def read_gguf(path: Path) -> GgufFile:
    """Read the header; tensor data is not touched. ValueError if the file is no sound GGUF file."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size < 24:
            raise ValueError(f"{path}: {size} bytes are too few for a GGUF file")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Cursor(path, data, size).file()


def read_floats(tensor: StoredTensor) -> list[float]:
    """All numbers of an F32 tensor, for the few small ones that are really configuration."""
    assert tensor.format.name == "F32"
    values = array("f")
    with tensor.path.open("rb") as file:
        file.seek(tensor.offset)
        values.frombytes(file.read(tensor.byte_count))
    if sys.byteorder == "big":
        values.byteswap()
    return list(values)


class _Cursor:
    """Reads the header from front to back."""

    def __init__(self, path: Path, data: mmap.mmap, size: int) -> None:
        self.path, self.data, self.size = path, data, size
        self.end = min(size, MAX_HEADER_BYTES)
        self.at = 0

    def fault(self, field: str, why: str, at: int | None = None) -> ValueError:
        return ValueError(f"{self.path}: {field} at byte {self.at if at is None else at}: {why}")

    def take(self, length: int, field: str) -> int:
        """Move over `length` bytes and return where they began."""
        left = self.end - self.at
        if length > left:
            where = "the file" if self.end == self.size else "the largest header allowed"
            raise self.fault(field, f"{length} bytes are needed, {left} are left of {where}")
        self.at += length
        return self.at - length

    def number(self, code: str, field: str) -> Any:
        return struct.unpack_from("<" + code, self.data, self.take(struct.calcsize(code), field))[0]

    def count(self, item_bytes: int, field: str) -> int:
        """A u64 count of items that take at least `item_bytes` each."""
        at = self.at
        count: int = self.number("Q", field)
        if count > (self.end - self.at) // item_bytes:
            raise self.fault(field, f"{count} is more than the rest of the file can hold", at)
        return count

    def text(self, field: str) -> str:
        length = self.count(1, field)
        at = self.take(length, field)
        try:
            return self.data[at : at + length].decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.fault(field, f"not UTF-8: {error}", at) from None

    def texts(self, count: int, field: str) -> list[str]:
        """As `text` for each, written out because a vocabulary has hundreds of thousands."""
        data, end, at = self.data, self.end, self.at
        length_of = struct.Struct("<Q").unpack_from
        result: list[str] = []
        for i in range(count):
            if end - at < 8 or (length := length_of(data, at)[0]) > end - at - 8:
                self.at = at
                return [*result, self.text(f"{field}[{i}]")]  # which raises
            at += 8
            try:
                result.append(data[at : at + length].decode())
            except UnicodeDecodeError as error:
                raise self.fault(f"{field}[{i}]", f"not UTF-8: {error}", at) from None
            at += length
        self.at = at
        return result

    def value(self, kind: int, field: str, nesting: int = 0) -> Any:
        if kind in NUMBERS:
            return self.number(NUMBERS[kind], field)
        if kind == BOOL:
            return self.boolean(field)
        if kind == STRING:
            return self.text(field)
        if kind == ARRAY:
            return self.array(field, nesting)
        raise self.fault(field, f"value type {kind} is unknown")

    def boolean(self, field: str) -> bool:
        byte: int = self.number("B", field)
        if byte > 1:
            raise self.fault(field, f"a bool must be 0 or 1, not {byte}", self.at - 1)
        return byte == 1

    def array(self, field: str, nesting: int) -> Any:
        if nesting == MAX_NESTING:
            raise self.fault(field, f"arrays are nested more than {MAX_NESTING} deep")
        kind = self.number("I", field)
        if kind in NUMBERS:
            values = array(NUMBERS[kind])
            length = self.count(values.itemsize, field) * values.itemsize
            at = self.take(length, field)
            values.frombytes(self.data[at : at + length])
            if sys.byteorder == "big":
                values.byteswap()
            return values
        smallest = {BOOL: 1, STRING: 8, ARRAY: 12}.get(kind, 1)
        count = self.count(smallest, field)
        if kind == STRING:
            return self.texts(count, field)
        return [self.value(kind, f"{field}[{i}]", nesting + 1) for i in range(count)]

    def file(self) -> GgufFile:
        if self.data[: self.take(4, "magic") + 4] != b"GGUF":
            raise ValueError(f"{self.path}: not a GGUF file: it begins with {self.data[:4]!r}")
        version = self.number("I", "version")
        if version not in (2, 3):
            order = "; the file is big-endian" if version in (2 << 24, 3 << 24) else ""
            raise self.fault("version", f"{version} is not supported, 2 and 3 are{order}", 4)
        tensor_count = self.count(24, "tensor count")
        metadata = self.metadata(self.count(13, "metadata count"))
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise ValueError(f"{self.path}: general.alignment={alignment!r} must be a power of two")
        return GgufFile(self.path, version, metadata, self.tensors(tensor_count, alignment))

    def metadata(self, count: int) -> dict[str, Any]:
        metadata: dict[str, Any] = {}
        for i in range(count):
            at = self.at
            key = self.text(f"metadata key {i}")
            if not 0 < len(key.encode()) <= MAX_KEY_BYTES:
                raise self.fault(f"metadata key {i}", f"must have 1 to {MAX_KEY_BYTES} bytes", at)
            if key in metadata:
                raise self.fault(f"metadata key {key!r}", "occurs twice", at)
            metadata[key] = self.value(self.number("I", key), key)
        return metadata

    def tensors(self, count: int, alignment: int) -> dict[str, StoredTensor]:
        found: dict[str, tuple[tuple[int, ...], NumberFormat, int]] = {}
        for i in range(count):
            at = self.at
            name = self.text(f"name of tensor {i}")
            if name in found:
                raise self.fault(f"tensor {name!r}", "occurs twice", at)
            found[name] = self.description(f"tensor {name!r}", alignment)
        base = -(-self.at // alignment) * alignment
        tensors = {
            name: StoredTensor(self.path, shape, numbers, base + offset)
            for name, (shape, numbers, offset) in found.items()
        }
        self.check_places(tensors)
        return tensors

    def description(self, field: str, alignment: int) -> tuple[tuple[int, ...], NumberFormat, int]:
        """Shape, format, and offset from the start of the data section."""
        at = self.at
        rank = self.number("I", field)
        if rank > MAX_DIMENSIONS:
            raise self.fault(field, f"{rank} dimensions; at most {MAX_DIMENSIONS} are allowed", at)
        shape = tuple(reversed([self.number("Q", field) for _ in range(rank)]))
        if 0 in shape or prod(shape) > MAX_ELEMENTS:
            raise self.fault(field, f"the shape {shape} is empty or too large", at)
        at, kind = self.at, self.number("I", field)
        if kind not in FORMATS:
            raise self.fault(field, f"ggml type {kind} is unknown", at)
        numbers = FORMATS[kind]
        if (shape[-1] if shape else 1) % numbers.block:
            raise self.fault(
                field, f"rows of shape {shape} are no multiple of {numbers.name}'s {numbers.block}"
            )
        at, offset = self.at, self.number("Q", field)
        if offset % alignment:
            raise self.fault(field, f"offset {offset} is no multiple of {alignment}", at)
        return shape, numbers, offset

    def check_places(self, tensors: Mapping[str, StoredTensor]) -> None:
        """Every tensor lies within the file and overlaps no other."""
        before, end = "the header", 0
        for name, tensor in sorted(tensors.items(), key=lambda item: item[1].offset):
            if tensor.offset < end:
                raise ValueError(
                    f"{self.path}: tensor {name!r} at byte {tensor.offset} overlaps {before}"
                )
            before, end = f"tensor {name!r}", tensor.offset + tensor.byte_count
            if end > self.size:
                raise ValueError(
                    f"{self.path}: tensor {name!r} ends at byte {end}, the file at {self.size};"
                    " it is cut short, or not all of it was downloaded"
                )
