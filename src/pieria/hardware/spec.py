"""What a machine is, in numbers: each with its unit and where it comes from.

Knows no machine; the other files of this folder fill these in.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

_PREFIXES = {"T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3, "": 1.0}
_SECONDS = {"": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_BINARY_PREFIXES = {"Ti": 2.0**40, "Gi": 2.0**30, "Mi": 2.0**20, "Ki": 2.0**10, "": 1.0}

DTYPES = ("float64", "float32", "tfloat32", "bfloat16", "float16", "float8", "int8", "float4")
"""Whose peaks a spec may state."""


def _check_unit(owner: str, unit: str, *quantities: "Quantity | None") -> None:
    for quantity in quantities:
        if quantity is not None and quantity.unit != unit:
            raise ValueError(f"{owner}: {quantity} must be given in {unit or 'no unit'}")


@dataclass(frozen=True)
class Quantity:
    """A number with its unit, its source, and the bounds between which it may lie.

    inferred: nobody published or measured this number; it was reasoned out or assumed as `source`
    says, and has bounds. A published range has bounds too, without being inferred.
    """

    value: float
    unit: str
    source: str
    low: float | None = None
    high: float | None = None
    inferred: bool = False

    def __post_init__(self) -> None:
        if not self.source.strip():
            raise ValueError(f"{self.value} {self.unit} has no source")
        low, high = self.bounds
        if (self.low is None) != (self.high is None) or not low <= self.value <= high:
            raise ValueError(
                f"{self.value} {self.unit} must lie between low={self.low} and high={self.high},"
                " which are given both or not at all"
            )
        if self.inferred and self.low is None:
            raise ValueError(f"{self.value} {self.unit} is inferred: it needs low and high")

    @property
    def bounds(self) -> tuple[float, float]:
        """(low, high); both the value where no bounds were given."""
        return (
            self.value if self.low is None else self.low,
            self.value if self.high is None else self.high,
        )

    def times(self, factor: "Quantity | float", unit: str, source: str = "") -> "Quantity":
        """The product with another positive quantity or number: bounds multiply.

        It is inferred if one of the factors is. source: how it came about; default: the sources.
        """
        other = factor if isinstance(factor, Quantity) else Quantity(factor, "", "a number")
        mine, its = self.bounds, other.bounds
        bounded = self.low is not None or other.low is not None
        sources = [q.source for q in (self, factor) if isinstance(q, Quantity)]
        return Quantity(
            self.value * other.value,
            unit,
            source or "; ".join(dict.fromkeys(sources)),
            mine[0] * its[0] if bounded else None,
            mine[1] * its[1] if bounded else None,
            self.inferred or other.inferred,
        )

    def plus(self, other: "Quantity", source: str = "") -> "Quantity":
        """The sum of two quantities of the same unit: bounds add up."""
        assert self.unit == other.unit
        mine, its = self.bounds, other.bounds
        bounded = self.low is not None or other.low is not None
        return Quantity(
            self.value + other.value,
            self.unit,
            source or "; ".join(dict.fromkeys((self.source, other.source))),
            mine[0] + its[0] if bounded else None,
            mine[1] + its[1] if bounded else None,
            self.inferred or other.inferred,
        )

    def __str__(self) -> str:
        """Value, bounds and unit with a prefix (binary for bytes alone), without the source."""
        prefixes = _BINARY_PREFIXES if self.unit == "B" else _PREFIXES
        if self.unit == "s":
            prefixes = _SECONDS
        prefix = next((p for p, scale in prefixes.items() if abs(self.value) >= scale), "")
        scale = prefixes[prefix]
        bounds = ""
        if self.low is not None and self.high is not None:
            bounds = f" ({self.low / scale:.4g} to {self.high / scale:.4g})"
        return f"{self.value / scale:.4g}{bounds} {prefix}{self.unit}".rstrip()


@dataclass(frozen=True)
class Fact:
    """Something that holds or does not, and who says so. inferred: an assumption of ours."""

    holds: bool
    source: str
    inferred: bool = False

    def __post_init__(self) -> None:
        if not self.source.strip():
            raise ValueError(f"{self.holds} has no source")

    def __bool__(self) -> bool:
        return self.holds

    def __str__(self) -> str:
        return "yes" if self.holds else "no"


@dataclass(frozen=True)
class Link:
    """One kind of connection as it leaves a card.

    bandwidth: bytes/s one way over all of the card's ports of this kind. ports: how many.
    efficiency: the share of the bandwidth that payload gets in large transfers at best.
    latency: seconds that a small message takes from one card's kernel to the next one's without a
    switch between them. copy_engines: whether collectives can run on engines of their own and take
    no compute.
    """

    name: str
    bandwidth: Quantity
    latency: Quantity
    efficiency: Quantity
    copy_engines: Fact
    ports: Quantity | None = None

    def __post_init__(self) -> None:
        _check_unit(self.name, "B/s", self.bandwidth)
        _check_unit(self.name, "s", self.latency)
        _check_unit(self.name, "", self.efficiency)
        if self.efficiency.bounds[1] > 1:
            raise ValueError(f"{self.name}: an efficiency of {self.efficiency} is above 1")


@dataclass(frozen=True)
class DeviceSpec:
    """One device.

    memory: bytes. cache: bytes of its last level, all instances. bandwidth: bytes/s read from
    memory. flops: operations/s of dense matrix products by dtype, a multiply-add counting as two;
    see `peak` for the names. What is None or absent has not been stated or measured.
    native_dtypes: those that the device has arithmetic for; others work through conversion.

    units: how many multiprocessors (or what corresponds to them) it has. launch: seconds from one
    kernel to the next where each is launched by itself and does nothing. replay: seconds that the
    start of a captured graph takes however many kernels it has; gap: seconds that each kernel of
    one takes that does nothing. power: W at full load, by itself. utilisation: what share of its
    roofline calls are taken to reach, over the share that the same calls were measured to reach on
    an H100; None where the device's own calls were measured.
    links: what leaves it; `fabric` and `cluster` say where to.
    """

    name: str
    vendor: str
    memory: Quantity
    native_dtypes: frozenset[str]
    cache: Quantity | None = None
    bandwidth: Quantity | None = None
    flops: Mapping[str, Quantity] = field(default_factory=dict)
    units: Quantity | None = None
    launch: Quantity | None = None
    replay: Quantity | None = None
    gap: Quantity | None = None
    power: Quantity | None = None
    utilisation: Quantity | None = None
    links: tuple[Link, ...] = ()

    def __post_init__(self) -> None:
        for unit, quantities in (
            ("B", (self.memory, self.cache)),
            ("B/s", (self.bandwidth,)),
            ("s", (self.launch, self.replay, self.gap)),
            ("W", (self.power,)),
            ("", (self.utilisation,)),
        ):
            _check_unit(self.name, unit, *quantities)
        unknown = set(self.flops) - set(DTYPES)
        if unknown:
            raise ValueError(f"{self.name}: flops of {sorted(unknown)}; there are: {DTYPES}")

    def peak(self, dtype: str) -> Quantity | None:
        """Operations/s for a dtype by torch's name: the formats of 8 bits share one, so do 4's.

        "tfloat32" is the product of float32 matrices whose inputs are rounded to 10 bits.
        """
        family = next((f for f in ("float8", "float4") if dtype.startswith(f"{f}_")), dtype)
        return self.flops.get(family)

    def link(self, name: str) -> Link:
        """ValueError naming those that there are."""
        for link in self.links:
            if link.name == name:
                return link
        there = ", ".join(link.name for link in self.links) or "none"
        raise ValueError(f"{self.name} has no link {name!r}; there are: {there}")


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
