"""Super-nodes over OISA, China Mobile's open interconnect, with S5000 cards in them.

Of OISA cards, switches and the order of bandwidth and latency are public; each hop's nanoseconds,
the share of payload on the wire, power and cooling are not. Those are assumptions here, with bounds
from systems that are like it.
"""

from pieria.hardware.cluster import ClusterSpec
from pieria.hardware.fabric import Fabric
from pieria.hardware.spec import DeviceSpec, Link, Quantity
from pieria.hardware.specs.links import nic, roce
from pieria.hardware.specs.mtt import MTLINK, S5000
from pieria.hardware.specs.quote import assumed, no, said, yes

SITE = "oisa.org.cn"
SPECIFICATION = "OISA high-density super-node reference design, 2026-03 (cqxgywz.com 479714)"
GENERATION_1 = "OISA generation 1, 2024-06 (ncsti.gov.cn)"

OISA = Link(
    name="OISA 2",
    bandwidth=assumed(
        500e9,
        392e9,
        1000e9,
        "B/s",
        f"TB/s a card in {SPECIFICATION}, taken as both ways; 784 GB/s of an S5000, and 800 of"
        f" {GENERATION_1}, at least",
    ),
    latency=assumed(
        0.25e-6, 0.1e-6, 0.7e-6, "s", f"hundreds of ns card to card ({SPECIFICATION}), less a hop"
    ),
    efficiency=assumed(
        0.85, 0.77, 0.93, "", "not public; 0.77 of Kunlun Tianchi, 0.93 of UALink 1.0"
    ),
    copy_engines=MTLINK.copy_engines,
    ports=said(8, "", f"{SITE}, seepart: 256 cards of 8 ports in the example"),
)
_HOP = assumed(
    0.25e-6,
    0.1e-6,
    0.7e-6,
    "s",
    "not public; Tomahawk Ultra 250 ns, UALink 100 to 150, UB 2 200, all of OISA hundreds of ns",
)
_REDUCTION = yes(f"{SITE}, p=386: collectives are offloaded to the switch")


def _fabric(name: str, cards: Quantity, hops: Quantity, source: str) -> Fabric:
    return Fabric(
        name=name,
        mesh=no(source),
        link=OISA,
        cards=cards,
        hops=hops,
        switch_latency=_HOP,
        reduction=_REDUCTION,
    )


_ONE = assumed(1, 1, 2, "", f"one layer: 128 cards on 8 switches of 128 ports in {GENERATION_1}")
_THREE = assumed(3, 2, 5, "", "two layers of switches; not public")
_CABINET = _fabric("OISA cabinet", said(128, "", SPECIFICATION), _ONE, SPECIFICATION)
_PAIR = _fabric("OISA pair of cabinets", said(256, "", SPECIFICATION), _ONE, SPECIFICATION)
_DOMAIN = _fabric("OISA domain", said(1024, "", f"{SITE}, OISA 2.0, 2025-08"), _THREE, SITE)
_NETWORK = roce(nic(400, "KUAE2 in the prospectus: a network card of 400 Gb/s for each card"))

_POWER = assumed(
    160e3,
    66e3,
    350e3,
    "W",
    "not public; 128 cards at 950 W, 30 % more for hosts and switches; 128 cards of Alibaba's AL128"
    " take 350 kW, NVL72 takes 120 to 145",
)


def _super_node(
    name: str, device: DeviceSpec, cards: Quantity, tiers: tuple[Fabric, ...]
) -> ClusterSpec:
    return ClusterSpec(
        name=name,
        device=device,
        cards=cards,
        node_cards=assumed(8, 4, 8, "", "not public: nodes of 2U (MTT C256, WAIC 2026)"),
        tiers=tiers,
        power=_POWER.times(cards.value / 128, "W", f"{_POWER.source}; for 128 cards"),
    )


DEVICES: dict[str, DeviceSpec] = {}
ALIASES = {"oisa": "oisa-128"}
CLUSTERS = {
    "oisa-128": _super_node(
        "OISA cabinet of 128 MTT S5000",
        S5000,
        said(128, "", SPECIFICATION),
        (_CABINET, _NETWORK),
    ),
    "oisa-256": _super_node(
        "OISA pair of cabinets, 256 MTT S5000",
        S5000,
        said(256, "", SPECIFICATION),
        (_PAIR, _NETWORK),
    ),
    "oisa-1024": _super_node(
        "OISA domain of 1024 MTT S5000",
        S5000,
        said(1024, "", f"{SITE}, OISA 2.0, 2025-08"),
        (_CABINET, _DOMAIN, _NETWORK),
    ),
}
