"""Safetensors files: which tensors they have and where each lies. Torch-free, reads no numbers.

Source: the format section of the safetensors README: a u64 header length, a JSON header, the data.
The files are not trusted: all that a header says is checked against the file's size, and every
fault is a ValueError that names the file.
"""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pieria.models.json_file import parse_json, read_json
from pieria.models.stored_tensor import NumberFormat, StoredTensor

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""

MAX_DIMENSIONS = 16

FORMATS: Mapping[str, NumberFormat] = {
    name: NumberFormat(name, 1, size)
    for size, names in {
        1: "BOOL U8 I8 F8_E4M3 F8_E5M2 F8_E8M0",
        2: "U16 I16 F16 BF16",
        4: "U32 I32 F32",
        8: "U64 I64 F64 C64",
    }.items()
    for name in names.split()
}


def shards(directory: Path) -> dict[Path, list[str] | None]:
    """The weight files of a checkpoint, each with the names wanted from it; None: all it has.

    Follows the index where there is one. ValueError if a file is missing, or if the index points
    out of the directory.
    """
    index = directory / INDEX
    if not index.is_file():
        single = directory / SINGLE
        if not single.is_file():
            raise ValueError(f"{directory}: there is neither {SINGLE} nor {INDEX}")
        return {single: None}
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ValueError(f"{index}: weight_map must be an object with the tensors' files")
    wanted: dict[Path, list[str] | None] = {}
    files: dict[str, list[str]] = {}
    for name, file in names.items():
        if not isinstance(file, str):
            raise ValueError(f"{index}: the file of {name!r} is {file!r}, not a name")
        files.setdefault(file, []).append(name)
    for file, members in files.items():
        path = PurePosixPath(file)
        if path.is_absolute() or ".." in path.parts or "\\" in file or ":" in file:
            raise ValueError(f"{index}: the file {file!r} is outside of the checkpoint's directory")
        if not (directory / path).is_file():
            raise ValueError(f"{directory / path}: missing, although {INDEX} names it")
        wanted[directory / path] = members
    return wanted


def read_shards(files: Mapping[Path, list[str] | None]) -> dict[str, StoredTensor]:
    """The tensors of `shards`. ValueError for one that the index names and its file lacks."""
    tensors: dict[str, StoredTensor] = {}
    for path, names in files.items():
        found = read_header(path)
        for name in found if names is None else names:
            if name not in found:
                raise ValueError(f"{path}: tensor {name!r} is missing, although {INDEX} names it")
            tensors[name] = found[name]
    return tensors


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one file."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise ValueError(
                f"{path}: a header of {length} bytes does not fit into a file of {size} bytes"
                f" or is larger than the {MAX_HEADER_BYTES} allowed"
            )
        header = parse_json(file.read(length), f"{path}: header")
    header.pop("__metadata__", None)
    tensors = {name: _tensor(path, name, entry, 8 + length) for name, entry in header.items()}
    before, end = "the header", 8 + length
    for name, tensor in sorted(
        tensors.items(), key=lambda item: (item[1].offset, item[1].byte_count)
    ):
        if tensor.offset < end:
            raise ValueError(f"{path}: tensor {name!r} overlaps {before}")
        before, end = f"tensor {name!r}", tensor.offset + tensor.byte_count
        if end > size:
            raise ValueError(
                f"{path}: tensor {name!r} ends at byte {end}, the file at {size};"
                " it is cut short, or not all of it was downloaded"
            )
    return tensors


def _tensor(path: Path, name: str, entry: Any, base: int) -> StoredTensor:
    """base: where the data section begins, in bytes."""
    entry = entry if isinstance(entry, dict) else {}
    kind, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    numbers = FORMATS.get(kind) if isinstance(kind, str) else None
    if numbers is None:
        raise ValueError(f"{path}: tensor {name!r}: dtype {kind!r} is none of {', '.join(FORMATS)}")
    if not _naturals(shape) or len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"{path}: tensor {name!r}: {shape!r} is no shape")
    if not _naturals(offsets) or len(offsets) != 2:
        raise ValueError(f"{path}: tensor {name!r}: data_offsets={offsets!r} must be two offsets")
    tensor = StoredTensor(path, tuple(shape), numbers, base + offsets[0])
    if tensor.byte_count != offsets[1] - offsets[0]:
        raise ValueError(
            f"{path}: tensor {name!r}: {kind} of shape {shape} takes {tensor.byte_count} bytes,"
            f" data_offsets={offsets} span {offsets[1] - offsets[0]}"
        )
    return tensor


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**63 for v in values)
