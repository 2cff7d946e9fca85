"""JSON from files that strangers wrote: objects of bounded size, without NaN or repeated keys."""

import json
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn, TypeVar

T = TypeVar("T", dict[str, Any], list[Any])

MAX_BYTES = 256 << 20


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file. ValueError, naming the file, if it is too large or no such object."""
    return parse_json(read_bounded(path), str(path))


def read_json_list(path: Path) -> list[Any]:
    """The array in a file. ValueError, naming the file, if it is too large or no such array."""
    return _parse(read_bounded(path), str(path), list)


def read_bounded(path: Path) -> bytes:
    """A whole file. ValueError if it has more than `MAX_BYTES`."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size > MAX_BYTES:
            raise ValueError(f"{path}: larger than the {MAX_BYTES} bytes allowed")
        file.seek(0)
        return file.read(size)


def parse_json(data: bytes, source: str) -> dict[str, Any]:
    """The object that `data` encodes. source: what to call it in errors."""
    return _parse(data, source, dict)


def _parse(data: bytes, source: str, kind: type[T]) -> T:
    def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in pairs:
            if key in result:
                raise ValueError(f"the key {key!r} occurs twice in one object")
            result[key] = value
        return result

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not a finite number")

    def finite(text: str) -> float:
        number = float(text)
        return number if isfinite(number) else refuse(text)

    try:
        value = json.loads(
            data, object_pairs_hook=object_of, parse_constant=refuse, parse_float=finite
        )
    except RecursionError:
        raise ValueError(f"{source}: JSON is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{source}: invalid JSON: {error}") from None
    if not isinstance(value, kind):
        wanted = {dict: "object", list: "array"}[kind]
        raise ValueError(f"{source}: expected a JSON {wanted}, found {type(value).__name__}")
    return value
