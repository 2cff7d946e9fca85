"""Models that are cut into several GGUF files, name-00001-of-00003.gguf and so on. Torch-free.

Source: tools/gguf-split of llama.cpp. The first file has the metadata, each file its own tensors.
"""

import re
from pathlib import Path

from pieria.models.gguf import GgufFile, read_gguf
from pieria.models.stored_tensor import StoredTensor

PART = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.gguf")


def part_names(name: str) -> list[str]:
    """The names of all parts if this is the name of one, in order; else just this name."""
    match = PART.fullmatch(name)
    if match is None or not 1 <= int(match[2]) <= int(match[3]):
        return [name]
    return [f"{match[1]}-{i:05d}-of-{match[3]}.gguf" for i in range(1, int(match[3]) + 1)]


def read_gguf_parts(path: Path) -> GgufFile:
    """A model, given by its only file or by any of its parts.

    ValueError if a part is missing, or belongs to something else; otherwise as `read_gguf`.
    """
    paths = [path.with_name(name) for name in part_names(path.name)]
    given = read_gguf(path)
    count = given.metadata.get("split.count", 1)
    if count in (0, 1):
        return given
    if count != len(paths):
        raise ValueError(
            f"{path}: one of {count!r} parts, whose names must end in -00001-of-0000N.gguf etc."
        )
    tensors: dict[str, StoredTensor] = {}
    parts = []
    for number, part in enumerate(paths):
        if not part.is_file():
            raise ValueError(f"{part}: missing, although {path.name} is one of {count} parts")
        file = read_gguf(part)
        found = [file.metadata.get(f"split.{key}") for key in ("no", "count")]
        if found != [number, count]:
            raise ValueError(f"{part}: part {number} of {count} expected, not {found}")
        if twice := tensors.keys() & file.tensors.keys():
            raise ValueError(f"{part}: tensor {min(twice)!r} is in another part, too")
        tensors.update(file.tensors)
        parts.append(file)
    return GgufFile(paths[0], parts[0].version, parts[0].metadata, tensors)
