"""Every number of every spec has a source and lies in its bounds; the numbers agree with others."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import pytest

from pieria.hardware import catalog
from pieria.hardware.spec import Fact, Quantity

CLUSTERS = [*catalog.device_names(), *catalog.cluster_names()]


def inside(what: Any, path: str) -> Iterator[tuple[str, Any]]:
    """All that is in a spec but its names, down to quantities and facts."""
    if isinstance(what, Quantity | Fact):
        yield path, what
    elif is_dataclass(what):
        for field in fields(what):
            yield from inside(getattr(what, field.name), f"{path}.{field.name}")
    elif isinstance(what, dict):
        for key, value in what.items():
            yield from inside(value, f"{path}[{key}]")
    elif isinstance(what, tuple | frozenset):
        for i, value in enumerate(what):
            yield from inside(value, f"{path}[{i}]")
    elif what is not None:
        yield path, what


@pytest.mark.parametrize("name", CLUSTERS)
def test_every_number_has_a_source_and_lies_in_its_bounds(name: str) -> None:
    found = dict(inside(catalog.cluster(name), name))
    quantities = {path: what for path, what in found.items() if isinstance(what, Quantity)}
    assert len(quantities) > 25
    for path, quantity in quantities.items():
        low, high = quantity.bounds
        assert len(quantity.source) > 8, path
        assert low <= quantity.value <= high, path
        assert quantity.value > 0 or path.endswith((".hops", ".switch_latency")), path
        assert quantity.low is not None or not quantity.inferred, path
    for path, what in found.items():
        if isinstance(what, Fact):
            assert len(what.source) > 8, path
        elif not isinstance(what, Quantity):
            assert isinstance(what, str), f"{path} is a {type(what).__name__} without a source"


def test_the_walk_finds_a_number_without_a_source() -> None:
    assert dict(inside({"a": (1.5,), "b": None}, "x")) == {"x[a][0]": 1.5}


@pytest.mark.parametrize("name", catalog.device_names())
def test_what_a_device_must_state(name: str) -> None:
    spec = catalog.device(name)
    assert spec.bandwidth is not None
    assert spec.power is not None and spec.power.bounds[0] < spec.power.bounds[1]
    assert {"float32", "bfloat16", "float16", "int8"} <= set(spec.flops)
    for dtype in spec.native_dtypes:
        assert spec.peak(dtype) is not None, dtype
    for dtype, peak in spec.flops.items():
        assert peak.unit == ("OP/s" if dtype == "int8" else "FLOP/s")
        assert 0.5e12 < peak.value < 20e15
    for dtype in ("float64", "float32", "tfloat32", "float16"):
        assert spec.flops.get(dtype, spec.flops["float16"]).value <= spec.flops["float16"].value
    assert 20e9 < spec.memory.value < 300e9
    assert spec.links
    tiers, power = catalog.cluster(name).tiers, catalog.cluster(name).power
    assert power is not None and power.bounds[0] < power.bounds[1]
    assert tiers[0].link in spec.links
    assert tiers[-1].cards is None


@pytest.mark.parametrize(
    ("name", "units", "operations", "gigahertz", "dtype"),
    [
        # Operations of all tensor cores of a multiprocessor in a clock, and the clock that the
        # vendor's peaks refer to: the architecture whitepapers'.
        ("a100", 108, 2048, 1.41, "bfloat16"),
        ("h100", 132, 4096, 1.83, "bfloat16"),
        ("h100", 132, 8192, 1.83, "float8"),
        ("rtx-4090", 128, 512, 2.52, "bfloat16"),
        ("rtx-pro-6000", 188, 1024, 2.43, "bfloat16"),
        ("mtt-s5000", 60, 8192, 2.035, "float8"),
    ],
)
def test_peaks_are_units_times_clock(
    name: str, units: int, operations: int, gigahertz: float, dtype: str
) -> None:
    spec = catalog.device(name)
    assert spec.units is not None and spec.units.value == units
    peak = spec.peak(dtype)
    assert peak is not None
    assert peak.value == pytest.approx(units * operations * gigahertz * 1e9, rel=0.005)


@pytest.mark.parametrize(
    ("name", "bits", "gigabits"),
    [("mtt-s5000", 640, 20), ("mtt-s4000", 384, 16), ("rtx-4090", 384, 21), ("h20", 6144, 5.2)],
)
def test_bandwidth_is_bits_times_rate(name: str, bits: int, gigabits: float) -> None:
    bandwidth = catalog.device(name).bandwidth
    assert bandwidth is not None
    assert bandwidth.value == pytest.approx(bits / 8 * gigabits * 1e9, rel=0.005)


@pytest.mark.parametrize(
    ("name", "link", "ports", "gigabytes"),
    [
        ("mtt-s5000", "MTLink", 14, 28),
        ("a100", "NVLink 3", 12, 25),
        ("h100", "NVLink 4", 18, 25),
        ("h800", "NVLink 4", 8, 25),
        ("b200", "NVLink 5", 18, 50),
        ("ascend-910c", "UB", 14, 28),
    ],
)
def test_a_link_is_its_ports(name: str, link: str, ports: int, gigabytes: float) -> None:
    found = catalog.device(name).link(link)
    assert found.ports is not None and found.ports.value == ports
    assert found.bandwidth.value == pytest.approx(ports * gigabytes * 1e9, rel=0.001)


def test_the_bins_of_the_s5000() -> None:
    peaks = {name: catalog.device(name).flops for name in catalog.device_names() if "s5000" in name}
    published = peaks["mtt-s5000"]["float8"]
    assert (published.value, published.inferred) == (1000e12, False)
    for name, flops in peaks.items():
        # The BF16 peak is not public: 500 assumed, and as much as FP8's if that is what was meant.
        bf16 = flops["bfloat16"]
        assert bf16.inferred, name
        assert bf16.value == flops["float8"].value / 2
        assert bf16.bounds[1] == flops["float8"].bounds[1]
    assert peaks["mtt-s5000"]["bfloat16"].bounds == (385e12, 1024e12)
    for fewer in ("mtt-s5000-56", "mtt-s5000-56-air"):
        units = catalog.device(fewer).units
        assert units is not None and units.value == 56
    assert peaks["mtt-s5000-air"]["float8"].value == peaks["mtt-s5000-56-air"]["float8"].value


@pytest.mark.parametrize(
    ("name", "dtype", "measured"),
    [
        # The field test of S5000, and torch's FP32 products there.
        ("mtt-s5000", "float8", 899.4e12),
        ("mtt-s5000", "float16", 384.7e12),
        ("mtt-s5000", "bfloat16", 296.5e12),
        ("mtt-s5000", "tfloat32", 158.9e12),
        ("mtt-s5000", "float32", 24.36e12),
        ("mtt-s5000", "int8", 446.4e12),
    ],
)
def test_no_measured_product_is_faster_than_the_peak(
    name: str, dtype: str, measured: float
) -> None:
    peak = catalog.device(name).flops[dtype]
    assert measured <= peak.value


@pytest.mark.parametrize(
    ("name", "cards", "bus"),
    [
        # Bus bandwidths of 512 MiB or 1 GiB among eight cards, which no switch added up, in GB/s:
        # aiconfigurator 095f58a with NCCL 2.27, and the field test of S5000.
        ("h100", 8, 336),
        ("h100", 8, 317),
        ("a100", 8, 205),
        ("b200", 8, 562),
        ("mtt-s5000", 8, 234.3),
        ("mtt-s5000", 2, 35.7),
        ("mtt-s5000", 4, 100.4),
    ],
)
def test_no_measured_collective_is_faster_than_the_wire(name: str, cards: int, bus: float) -> None:
    fabric = catalog.cluster(name).fabric(cards)
    assert 0.35 * fabric.bandwidth(cards).value < bus * 1e9
    assert bus * 1e9 <= fabric.payload(cards).bounds[1]


def test_super_nodes() -> None:
    for name, cards in (("oisa-128", 128), ("oisa-256", 256), ("oisa-1024", 1024)):
        node = catalog.cluster(name)
        fabric = node.fabric(cards)
        assert node.cards.value == cards
        assert fabric.reduction and not fabric.mesh
        assert fabric.latency.value <= 1e-6, "hundreds of ns"
        assert fabric.latency.inferred and fabric.link.efficiency.inferred
        power = node.power
        assert power is not None and power.inferred
        assert power.bounds[0] < power.value < power.bounds[1]
    assert catalog.cluster("oisa-1024").fabric(128).hops.value == 1
    assert catalog.cluster("oisa-1024").fabric(129).hops.value == 3
    matrix = catalog.cluster("cloudmatrix-384")
    assert matrix.fabric(384).name == "UB"
    assert matrix.card_power is not None and matrix.card_power.value == pytest.approx(
        1456, rel=1e-3
    )
    assert catalog.cluster("gb300").fabric(72).reduction
    assert not catalog.cluster("a100").fabric(8).reduction
    assert catalog.cluster("h100").fabric(8).reduction
    assert catalog.cluster("h100").fabric(16).bandwidth(16).value == 50e9
