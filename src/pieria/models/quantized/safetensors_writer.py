"""Tensors into safetensors files as they come, of which no more than one is in memory.

A file's header stands before its data and is written last, into room that is kept for it; the rest
of the room is spaces, as the format allows. Format: see `safetensors_file`.
"""

import json
from io import FileIO
from pathlib import Path

import torch
from torch import Tensor

from pieria.models.safetensors_file import INDEX, SINGLE

HEADER = 1 << 20
"""Bytes kept for a header; a tensor takes some 150 of them."""

MOST = 4 << 30
"""Bytes of data after which another file is begun."""

KINDS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int32: "I32",
    torch.int64: "I64",
}


class SafetensorsWriter:
    """Writes into a folder; what it wrote is a checkpoint after `close`."""

    def __init__(self, folder: Path, most: int = MOST) -> None:
        self._folder, self._most = folder, most
        self._files: list[Path] = []
        self._names: dict[str, int] = {}
        self._header: dict[str, object] = {}
        self._file: FileIO | None = None
        self._bytes = self.total = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """ValueError for a name that was there before."""
        if name in self._names:
            raise ValueError(f"tensor {name} is there twice")
        size = tensor.numel() * tensor.element_size()
        room = HEADER - 64 - len(json.dumps(self._header)) - len(name) - 200
        if self._file is None or room < 0 or (self._bytes and self._bytes + size > self._most):
            self._next()
        assert self._file is not None
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        self._file.write(data.numpy().data)
        span = [self._bytes, self._bytes + size]
        kind = KINDS[tensor.dtype]
        entry = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": span}
        self._header[name] = entry
        self._names[name] = len(self._files) - 1
        self._bytes += size
        self.total += size

    def close(self) -> None:
        """Write the last header and, of several files, the index, and give files their names."""
        self._end()
        count = len(self._files)
        final = (
            [SINGLE]
            if count == 1
            else [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
        )
        for path, name in zip(self._files, final, strict=True):
            path.rename(self._folder / name)
        if count > 1:
            where = {name: final[at] for name, at in self._names.items()}
            index = {"metadata": {"total_size": self.total}, "weight_map": where}
            (self._folder / INDEX).write_text(json.dumps(index, indent=1) + "\n")

    def _next(self) -> None:
        self._end()
        path = self._folder / f"part-{len(self._files) + 1}.unfinished"
        self._file = path.open("wb", buffering=0)
        self._file.seek(8 + HEADER)
        self._files.append(path)
        self._header, self._bytes = {"__metadata__": {"format": "pt"}}, 0

    def _end(self) -> None:
        if self._file is None:
            return
        text = json.dumps(self._header).encode()
        assert len(text) <= HEADER
        self._file.seek(0)
        self._file.write(HEADER.to_bytes(8, "little") + text.ljust(HEADER))
        self._file.close()
        self._file = None
