"""A cluster at the worst and the best that its numbers may be.

Knows which way each kind of number is good. Numbers without bounds stay as they are.
"""

from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, TypeVar

from pieria.hardware.spec import Quantity

T = TypeVar("T")

Side = Literal["worst", "best"]

MORE_IS_BETTER = frozenset({"memory", "cache", "bandwidth", "flops", "efficiency", "utilisation"})
LESS_IS_BETTER = frozenset({"launch", "replay", "gap", "latency", "switch_latency"})


def at(spec: T, side: Side) -> T:
    """`spec`, a DeviceSpec, ClusterSpec or a part of one, with all numbers at that side."""
    found: T = _at(spec, side, "")
    return found


def _at(value: Any, side: Side, name: str) -> Any:
    if isinstance(value, Quantity):
        if name not in MORE_IS_BETTER | LESS_IS_BETTER:
            return value
        low, high = value.bounds
        is_high = (side == "best") == (name in MORE_IS_BETTER)
        return replace(value, value=high if is_high else low)
    if isinstance(value, tuple):
        return tuple(_at(one, side, name) for one in value)
    if isinstance(value, dict):
        return {key: _at(one, side, name) for key, one in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        changed = {f.name: _at(getattr(value, f.name), side, f.name) for f in fields(value)}
        return replace(value, **changed)
    return value
