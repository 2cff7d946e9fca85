"""A super-node's design held against what is public of OISA, line by line, and against itself.

    for line in check(load(Path("examples/oisa_128.yaml"))):
        print(line.verdict, line.subject, line.asked, line.found, line.source)

Knows the public figures of OISA (generation 1 to 2.0, and the high-density super-node of 2026-03)
and what ports, rates, layers and delays must add up to. Of a design it knows what that states.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Literal

from pieria.plan.design import Design, Switches

Verdict = Literal["met", "not met", "not public", "not stated"]

SITE = "oisa.org.cn"
SEEPART = f"{SITE}/index.php/seepart"
LAYERS = f"{SITE}/?p=386"
GENERATION_1 = "OISA generation 1, 2024-06: ncsti.gov.cn"
GENERATION_1_1 = "OISA 1.1, late 2024: c114"
SPECIFICATION = "OISA high-density super-node reference design, 2026-03: cqxgywz.com 479714"
SWITCH_NODE = f"OISA-2026-CN-002 (25.6T board): {SITE}"
ARITHMETIC = "arithmetic"

CABINET_CARDS = 128
DOMAIN_CARDS = 1024
MESH_CARDS = 8
PORT_GBITS = (50.0, 1600.0)
SERDES = {25.0: 25.0, 56.0: 50.0, 112.0: 100.0, 224.0: 200.0}
"""Names of lane rates -> 10^9 bits/s of payload on a lane."""
LANES = (1, 2, 4, 8)
FASTEST_SWITCH_NS = 100.0
"""Of UALink 1.0's 100 to 150 ns a port: less is not known of any switch."""
LIKE_IT = {
    "GB200 NVL72": (120, 145, 72),
    "CloudMatrix384": (559, 559, 384),
    "Alibaba AL128": (350, 350, 128),
    "Sugon ScaleX640": (860, 860, 640),
}
"""Cabinets and super-nodes -> kW from and to, for so many cards: SemiAnalysis and press."""


@dataclass(frozen=True)
class Line:
    """One figure: what is asked, by whom, what the design has, and whether that is enough.

    "not public": nobody can say what OISA asks here; `asked` then tells what is known of others.
    "not stated": the design does not say what it has.
    """

    subject: str
    asked: str
    found: str
    verdict: Verdict
    source: str


def check(design: Design) -> tuple[Line, ...]:
    """The public figures of OISA first, then what the design's own numbers must add up to."""
    return (*_figures(design), *_arithmetic(design))


def _line(subject: str, asked: str, found: object, holds: bool | None, source: str) -> Line:
    if holds is None:
        return Line(subject, asked, "-" if found is None else str(found), "not stated", source)
    return Line(subject, asked, str(found), "met" if holds else "not met", source)


def _figures(design: Design) -> Iterator[Line]:
    card, switches = design.card, design.switches
    each = ceil(design.cards / design.cabinets)
    yield _line(
        "cards in a cabinet",
        f"{CABINET_CARDS} in one, 256 in two",
        each,
        each >= CABINET_CARDS,
        SPECIFICATION,
    )
    yield _line(
        "cards in a domain",
        f"at most {DOMAIN_CARDS}",
        design.cards,
        design.cards <= DOMAIN_CARDS,
        f"OISA 2.0, 2025-08: {SITE}",
    )
    both = _both_ways(design)
    if switches is not None:
        yield _line(
            "any to any, generation 1",
            "800 GB/s a card, both ways",
            _gbytes(both),
            both >= 800,
            GENERATION_1,
        )
    peer = both if switches is not None else both / (design.cards - 1)
    yield _line(
        "one card to one other, 1.1",
        "896 GB/s, both ways",
        _gbytes(peer),
        peer >= 896,
        GENERATION_1_1,
    )
    yield _line(
        "bandwidth of a card, 2.0",
        "TB/s: 1000 GB/s, both ways",
        _gbytes(both),
        both >= 1000,
        SPECIFICATION,
    )
    yield _line(
        "latency card to card",
        "hundreds of ns: below 1000",
        _ns(design.latency_ns),
        None if design.latency_ns is None else design.latency_ns < 1000,
        SPECIFICATION,
    )
    low, high = PORT_GBITS
    yield _line(
        "rate of a port",
        f"{low:g} to {high:g} Gb/s",
        f"{card.port_gbits:g} Gb/s",
        low <= card.port_gbits <= high,
        SEEPART,
    )
    yield _line(
        "lanes",
        "SerDes of 25, 56, 112 or 224 Gb/s",
        None if design.serdes_gbits is None else f"{design.serdes_gbits:g} Gb/s",
        None if design.serdes_gbits is None else design.serdes_gbits in SERDES,
        SEEPART,
    )
    if switches is None:
        yield _line(
            "cards in a direct mesh",
            f"at most {MESH_CARDS}",
            design.cards,
            design.cards <= MESH_CARDS,
            SEEPART,
        )
    else:
        yield from _switch_figures(design, switches)
    yield _line(
        "backplane",
        "cables of high density",
        design.backplane,
        None if design.backplane is None else design.backplane == "cable",
        SPECIFICATION,
    )
    for subject, asked, found in (
        ("transactions", ("load_store", "dma"), design.semantics),
        ("retransmission", ("link", "transaction"), design.retransmission),
    ):
        yield _line(
            subject,
            " and ".join(asked),
            None if found is None else ", ".join(found),
            None if found is None else set(asked) <= set(found),
            LAYERS,
        )
    yield _line(
        "flow control",
        "credit or pfc",
        ", ".join(design.flow_control or ()) or None,
        None if design.flow_control is None else bool(design.flow_control),
        LAYERS,
    )
    yield from _not_public(design)


def _switch_figures(design: Design, switches: Switches) -> Iterator[Line]:
    yield _line(
        "layers of switches",
        "one up to 256 cards",
        f"{design.hops} passed on the way",
        design.hops == 1 or design.cards > 256,
        f"MTT C256, WAIC 2026; {GENERATION_1}",
    )
    capacity = _capacity(switches)
    yield _line(
        "capacity of a switch, generation 1",
        "51.2 Tb/s, 128 ports",
        f"{capacity:g} Tb/s, {switches.ports} ports",
        capacity >= 51.2 and switches.ports >= 128,
        GENERATION_1,
    )
    yield _line(
        "capacity of a switch, reference board",
        "25.6 Tb/s, ports of 50 to 800 Gb/s",
        f"{capacity:g} Tb/s, ports of {switches.port_gbits:g} Gb/s",
        capacity >= 25.6 and 50 <= switches.port_gbits <= 800,
        SWITCH_NODE,
    )
    yield _line(
        "collectives in the switch",
        "offloaded",
        _yes(switches.reduction),
        switches.reduction,
        LAYERS,
    )


def _not_public(design: Design) -> Iterator[Line]:
    low = min(least / cards for least, _, cards in LIKE_IT.values())
    high = max(most / cards for _, most, cards in LIKE_IT.values())
    kilowatts = design.power_kilowatts
    power = (
        None if kilowatts is None else f"{kilowatts:g} kW, {kilowatts / design.cards:.3g} a card"
    )
    for subject, known, found in (
        ("power", f"{', '.join(LIKE_IT)}: {low:.3g} to {high:.3g} kW a card", power),
        ("cooling", "cabinets like it: liquid", design.cooling),
        (
            "latency of a switch",
            "others: 100 to 250 ns",
            _ns(design.switches.latency_ns if design.switches else None),
        ),
        ("ports of a card", "the example has 8", str(design.card.ports)),
        ("share of payload on the wire", "others: 0.77 to 0.93", None),
    ):
        yield Line(subject, known, found or "-", "not public", "not in the public text")


def _arithmetic(design: Design) -> Iterator[Line]:
    card, switches = design.card, design.switches
    both = _both_ways(design)
    if card.bandwidth_gbytes is not None:
        yield _line(
            "claimed bandwidth",
            f"{card.bandwidth_gbytes:g} GB/s, both ways",
            f"{card.ports} ports x {card.port_gbits:g} Gb/s x 2 = {_gbytes(both)}",
            both >= 0.999 * card.bandwidth_gbytes,
            ARITHMETIC,
        )
    if design.serdes_gbits in SERDES:
        payload = SERDES[design.serdes_gbits]
        lanes = card.port_gbits / payload
        yield _line(
            "lanes of a port",
            f"1, 2, 4 or 8 of {payload:g} Gb/s",
            f"{lanes:g}",
            lanes in LANES,
            ARITHMETIC,
        )
    if switches is None:
        peers = design.cards - 1
        yield _line(
            "ports for a full mesh",
            f"the same number to each of {peers} peers",
            f"{card.ports} ports",
            card.ports % peers == 0,
            ARITHMETIC,
        )
    else:
        yield from _switch_arithmetic(design, switches)
    if design.latency_ns is not None and switches is not None:
        each = switches.latency_ns or FASTEST_SWITCH_NS
        inside = design.hops * each
        yield _line(
            "claimed latency",
            f"above {design.hops} x {each:g} = {inside:g} ns in switches",
            _ns(design.latency_ns),
            design.latency_ns > inside,
            ARITHMETIC if switches.latency_ns else "the least of UALink 1.0's 100 to 150 ns",
        )
    if design.power_kilowatts is not None and card.power_watts is not None:
        parts = design.cards * card.power_watts
        if switches is not None and switches.power_watts is not None:
            parts += switches.count * switches.power_watts
        yield _line(
            "claimed power",
            f"above the cards' and switches' {parts / 1e3:g} kW",
            f"{design.power_kilowatts:g} kW",
            design.power_kilowatts * 1e3 > parts,
            ARITHMETIC,
        )


def _switch_arithmetic(design: Design, switches: Switches) -> Iterator[Line]:
    card = design.card
    yield _line(
        "rate of a switch's ports",
        f"at least the card's {card.port_gbits:g} Gb/s",
        f"{switches.port_gbits:g} Gb/s",
        switches.port_gbits >= card.port_gbits,
        ARITHMETIC,
    )
    rates = switches.ports * switches.port_gbits / 1e3
    if switches.capacity_tbits is not None:
        yield _line(
            "capacity of a switch",
            f"{switches.ports} ports x {switches.port_gbits:g} Gb/s = {rates:g} Tb/s",
            f"{switches.capacity_tbits:g} Tb/s",
            switches.capacity_tbits >= 0.999 * rates,
            ARITHMETIC,
        )
    odd = design.hops % 2 == 1
    yield _line("switches passed", "an odd number: up and down again", design.hops, odd, ARITHMETIC)
    most = _reach(design, switches)
    yield _line(
        "cards within reach",
        f"{design.cards}",
        f"at most {most} with {switches.ports} ports and {design.hops} switches passed",
        most >= design.cards,
        ARITHMETIC,
    )
    # Without blocking every layer below the top carries the cards' traffic up as well as down.
    needed = design.cards * card.ports * design.hops
    yield _line(
        "ports of all switches",
        f"{design.cards} x {card.ports} x {design.hops} = {needed}, so that none blocks",
        f"{switches.count} x {switches.ports} = {switches.count * switches.ports}",
        switches.count * switches.ports >= needed,
        ARITHMETIC,
    )


def _reach(design: Design, switches: Switches) -> int:
    """How many cards these switches join at the stated number of hops, in planes side by side.

    In one layer each switch must have a port for every card; a card with more ports than there are
    switches has several at each. A fat tree of n layers of switches with r ports joins 2 (r/2)^n.
    """
    if design.hops == 1:
        return switches.ports // max(1, ceil(design.card.ports / switches.count))
    layers = (design.hops + 1) // 2
    return int(2 * (switches.ports / 2) ** layers)


def _both_ways(design: Design) -> float:
    """10^9 bytes/s of a card's ports, in and out together."""
    return design.card.ports * design.card.port_gbits / 8 * 2


def _capacity(switches: Switches) -> float:
    return switches.capacity_tbits or switches.ports * switches.port_gbits / 1e3


def _gbytes(value: float) -> str:
    return f"{value:.4g} GB/s"


def _ns(value: float | None) -> str | None:
    return None if value is None else f"{value:g} ns"


def _yes(value: bool | None) -> str | None:
    return None if value is None else "yes" if value else "no"
