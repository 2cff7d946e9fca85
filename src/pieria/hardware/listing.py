"""Specs as rows of what, how much, and who says so: for tables and JSON."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pieria.hardware.cluster import ClusterSpec
from pieria.hardware.fabric import Fabric
from pieria.hardware.spec import DeviceSpec, Fact, Link, Quantity


@dataclass(frozen=True)
class Row:
    """One number or fact of a spec."""

    label: str
    what: Quantity | Fact

    def cells(self) -> tuple[str, str, str, str, str, str]:
        """Label, value, low, high, "inferred" or nothing, source."""
        mark = "inferred" if self.what.inferred else ""
        if isinstance(self.what, Fact):
            return self.label, str(self.what), "", "", mark, self.what.source
        plain = replace(self.what, low=None, high=None, inferred=False)
        low, high = (
            "" if bound is None else str(replace(plain, value=bound))
            for bound in (self.what.low, self.what.high)
        )
        return self.label, str(plain), low, high, mark, self.what.source

    def json(self) -> dict[str, Any]:
        return {"label": self.label, **vars(self.what)}


HEADINGS = ("", "value", "low", "high", "", "source")


def device_rows(spec: DeviceSpec) -> list[Row]:
    """What is stated or measured of a device, with its links."""
    found = (
        ("memory", spec.memory),
        ("memory bandwidth", spec.bandwidth),
        ("last-level cache", spec.cache),
        ("multiprocessors", spec.units),
        *((f"{dtype} peak", peak) for dtype, peak in spec.flops.items()),
        ("launch of a kernel", spec.launch),
        ("replay of a graph", spec.replay),
        ("each kernel of a graph", spec.gap),
        ("power", spec.power),
        ("share of the roofline, over an H100's", spec.utilisation),
    )
    rows = [Row(label, what) for label, what in found if what is not None]
    return [*rows, *(row for link in spec.links for row in _link(link, link.name))]


def cluster_rows(spec: ClusterSpec) -> list[Row]:
    """What is stated or assumed of a cluster, tier by tier, but for its device and that's links."""
    rows = [Row("cards", spec.cards), Row("cards at a host", spec.node_cards)]
    if spec.power is not None:
        rows.append(Row("power", spec.power))
    for tier in spec.tiers:
        rows += _fabric(tier)
        if tier.link not in spec.device.links:
            rows += _link(tier.link, tier.name)
    return rows


def _link(link: Link, name: str) -> Iterator[Row]:
    yield Row(f"{name}: bandwidth one way", link.bandwidth)
    if link.ports is not None:
        yield Row(f"{name}: ports", link.ports)
    yield Row(f"{name}: share of payload", link.efficiency)
    yield Row(f"{name}: latency", link.latency)
    yield Row(f"{name}: copy engines", link.copy_engines)


def _fabric(fabric: Fabric) -> Iterator[Row]:
    name = fabric.name
    yield Row(f"{name}: full mesh", fabric.mesh)
    if fabric.cards is not None:
        yield Row(f"{name}: cards", fabric.cards)
    if fabric.hops.value:
        yield Row(f"{name}: switches passed", fabric.hops)
        yield Row(f"{name}: latency of a switch", fabric.switch_latency)
        yield Row(f"{name}: switches add", fabric.reduction)


def device_json(spec: DeviceSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "vendor": spec.vendor,
        "native_dtypes": sorted(spec.native_dtypes),
        "numbers": numbers(device_rows(spec)),
    }


def cluster_json(spec: ClusterSpec) -> dict[str, Any]:
    return {"name": spec.name, "numbers": numbers(cluster_rows(spec))}


def numbers(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Each row with value, unit, low, high, inferred and source; a fact has `holds` instead."""
    return [row.json() for row in rows]
