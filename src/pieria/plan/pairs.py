"""What users write as `name=value,name=value`: its parts, and times with units.

Knows spelling. Does not know what the names mean.
"""

import re
from collections.abc import Collection, Mapping

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}


def pairs(text: str, names: Collection[str], where: str) -> Mapping[str, str]:
    """Values by name. ValueError naming `where` for what is no pair, unknown, or there twice."""
    found: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not value:
            raise ValueError(f"{where}: {part!r} must be NAME=VALUE, such as {next(iter(names))}=1")
        if name not in names:
            raise ValueError(f"{where}: there is no {name!r}; there are: {', '.join(names)}")
        if name in found:
            raise ValueError(f"{where}: {name} is given twice")
        found[name] = value
    return found


def seconds(text: str, where: str) -> float:
    """ "50ms" is 0.05, "1h" is 3600, "2" is two seconds. ValueError if it is no such time."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower(), re.ASCII)
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"{where}={text!r} must be a time such as 50ms, 2s, 10min or 1h")
    return float(match[1]) * _UNITS[match[2]]


def number(text: str, where: str, *, above: float = 0.0) -> float:
    """ValueError if it is not a number above this one."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not above < value < float("inf"):
        raise ValueError(f"{where}={text!r} must be a number above {above:g}")
    return value


def count(text: str, where: str, *, least: int = 1) -> int:
    """ValueError if it is not a whole number from `least` on."""
    if not re.fullmatch(r"\d{1,12}", text.strip(), re.ASCII) or int(text) < least:
        raise ValueError(f"{where}={text!r} must be a whole number of at least {least}")
    return int(text)
