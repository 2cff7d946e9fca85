"""What operators and the host take on a machine at hand, as `bench ops --record` writes it.

Knows the table's form and its file. Does not measure, and does not predict: `recorded` does.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np


@dataclass(frozen=True)
class Products:
    """Of one op and dtype: seconds [rows][outer][inner] of x [rows, inner] times [outer, inner].

    outer counts both matrices of a gated product. None: not measured. seconds: with weights from
    memory; cached: from the last cache. All tables of operands that a model has many of have both.
    """

    op: str
    dtype: str
    rows: tuple[int, ...]
    outer: tuple[int, ...]
    inner: tuple[int, ...]
    seconds: tuple[tuple[tuple[float | None, ...], ...], ...]
    cached: tuple[tuple[tuple[float | None, ...], ...], ...]


@dataclass(frozen=True)
class Attended:
    """Seconds [requests][context] of paged attention with heads of `size` numbers.

    phase: "context": prompts from their beginning; "generation": one token of each request.
    """

    phase: str
    heads: int
    groups: int
    size: int
    requests: tuple[int, ...]
    context: tuple[int, ...]
    seconds: tuple[tuple[float | None, ...], ...]
    cached: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class Chosen:
    """Seconds [tokens] of gated experts, `top` of `total` for each token, evenly chosen."""

    hidden: int
    size: int
    top: int
    total: int
    tokens: tuple[int, ...]
    seconds: tuple[float, ...]
    cached: tuple[float, ...]


@dataclass(frozen=True)
class Moved:
    """Seconds over bytes of an op that mostly moves them."""

    op: str
    bytes: tuple[float, ...]
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Reread:
    """Bytes/s at which so many bytes are read again and again: all from the last cache at first,
    all from memory in the end.
    """

    bytes: tuple[float, ...]
    rates: tuple[float, ...]

    def share(self, size: Any) -> Any:
        """Of what is between the cache's time and memory's: how much more it takes to read what was
        read `size` bytes ago.
        """
        seconds = [1 / rate for rate in self.rates]
        near, far = min(seconds), seconds[-1]
        if near == far:
            return np.ones_like(np.asarray(size, float))
        here = np.interp(size, self.bytes, seconds)
        return np.clip((here - near) / (far - near), 0.0, 1.0)


@dataclass(frozen=True)
class Host:
    """Seconds of what is not an op's kernel.

    replayed, replayed_each: of a step that is replayed, and of each request in it. step, each,
    token: of any other step, and of each request and token in it. call: of each of its calls.
    """

    replayed: float
    replayed_each: float
    step: float
    each: float
    token: float
    call: float


@dataclass(frozen=True)
class Record:
    """machine, threads, isa: what was measured. dtype: of models that it is good for.

    bandwidth, peak: bytes/s and FLOP/s against which utilisation is taken. They only shape what
    lies between measured points.
    """

    machine: str
    threads: int
    isa: str
    dtype: str
    bandwidth: float
    peak: float
    reread: Reread
    host: Host
    products: tuple[Products, ...] = ()
    attended: tuple[Attended, ...] = ()
    chosen: tuple[Chosen, ...] = ()
    moved: tuple[Moved, ...] = ()

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")


def load(path: Path) -> Record:
    """ValueError, naming the file and what is wrong in it, if it is not such a table."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"{path}: {error.strerror}; `pieria bench ops --record` writes it"
        ) from error
    try:
        return msgspec.json.decode(text, type=Record)
    except msgspec.DecodeError as error:
        raise ValueError(
            f"{path} is not a table of `pieria bench ops --record`: {error}"
        ) from error
