"""What a machine is, in numbers: each with its unit and where it comes from.

Knows no machine; the other files of this folder fill these in.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

_PREFIXES = {"T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3, "": 1.0}
_BINARY_PREFIXES = {"Ti": 2.0**40, "Gi": 2.0**30, "Mi": 2.0**20, "Ki": 2.0**10, "": 1.0}


@dataclass(frozen=True)
class Quantity:
    """A number with its unit and source; one that was inferred has bounds that it lies between."""

    value: float
    unit: str
    source: str
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if not self.source:
            raise ValueError(f"{self.value} {self.unit} has no source")
        low = self.value if self.low is None else self.low
        high = self.value if self.high is None else self.high
        if (self.low is None) != (self.high is None) or not low <= self.value <= high:
            raise ValueError(
                f"{self.value} {self.unit} must lie between low={self.low} and high={self.high},"
                " which are given both or not at all"
            )

    @property
    def inferred(self) -> bool:
        return self.low is not None

    def __str__(self) -> str:
        """Value, bounds and unit with a prefix (binary for bytes alone), without the source."""
        prefixes = _BINARY_PREFIXES if self.unit == "B" else _PREFIXES
        prefix = next((p for p, scale in prefixes.items() if abs(self.value) >= scale), "")
        scale = prefixes[prefix]
        bounds = ""
        if self.low is not None and self.high is not None:
            bounds = f" ({self.low / scale:.4g} to {self.high / scale:.4g})"
        return f"{self.value / scale:.4g}{bounds} {prefix}{self.unit}"


@dataclass(frozen=True)
class DeviceSpec:
    """One device.

    memory: bytes. cache: bytes of its last level, all instances. bandwidth: bytes/s read from
    memory. flops: operations/s by dtype name, a multiply-add counting as two. What is None or
    absent has not been stated or measured. native_dtypes: those that the device has arithmetic for;
    others work through conversion.
    """

    name: str
    vendor: str
    memory: Quantity
    native_dtypes: frozenset[str]
    cache: Quantity | None = None
    bandwidth: Quantity | None = None
    flops: Mapping[str, Quantity] = field(default_factory=dict)


@dataclass(frozen=True)
class Device:
    """A device at hand.

    name: what users call it; torch_device: what torch does. backends: the kernel backends made for
    it, first choice first. distributed: the torch.distributed backend. state: how far this project
    has tried it. facts: (label, value) of what else was detected.
    """

    name: str
    torch_device: str
    spec: DeviceSpec
    backends: tuple[str, ...]
    distributed: str
    state: str
    facts: tuple[tuple[str, str], ...] = ()
