"""Huawei's Ascend 910C and the CloudMatrix384 made of it.

One 910C is two dies in a package, which its software sees as two devices; here it is one.
"""

from pieria.hardware.cluster import ClusterSpec
from pieria.hardware.fabric import Fabric
from pieria.hardware.spec import DeviceSpec, Fact, Link, Quantity
from pieria.hardware.specs.launch import AS_H100
from pieria.hardware.specs.links import PCIE5, nic, roce
from pieria.hardware.specs.quote import GIB, assumed, draw, no, said, tera

PAPER = "Serving LLMs on CloudMatrix384, arXiv 2506.12708"

UB = Link(
    name="UB",
    bandwidth=said(
        392e9, "B/s", f"{PAPER}: over 392 GB/s one way, 14 ports; SemiAnalysis 350", low=350e9
    ),
    latency=assumed(
        1.0e-6, 0.5e-6, 1.5e-6, "s", f"{PAPER}: remote memory in 1.5 us, less the switches"
    ),
    efficiency=assumed(
        0.84,
        0.70,
        0.93,
        "",
        "EP8 dispatch and combine reach 102 and 152 of 196 GB/s a die"
        " (sgl-kernel-npu); UALink states 0.93",
    ),
    copy_engines=Fact(
        True,
        f"{PAPER}: SDMA moves data; the fused dispatch there uses AI vector cores instead",
        inferred=True,
    ),
    ports=said(14, "", f"{PAPER}: fourteen of 400 Gb/s"),
)

ASCEND_910C = DeviceSpec(
    name="Huawei Ascend 910C",
    vendor="Huawei",
    memory=said(128 * GIB, "B", f"{PAPER}: 128 GB, 64 on each die", low=122 * GIB),
    native_dtypes=frozenset({"float32", "bfloat16", "float16", "int8"}),
    bandwidth=said(3.2e12, "B/s", PAPER),
    flops={
        **tera(f"{PAPER}; SemiAnalysis 780", bfloat16=752.0, float16=752.0, int8=1504.0),
        "float32": assumed(
            188e12, 48e12, 188e12, "FLOP/s", "a quarter of BF16's, as on 910B; vector units 48"
        ),
    },
    units=said(48, "", f"{PAPER}: 24 cube cores on each die"),
    power=assumed(750, 600, 900, "W", "not published; two dies of the kind of 910B (310 to 400 W)"),
    utilisation=AS_H100,
    links=(UB, PCIE5),
)

DEVICES = {"ascend-910c": ASCEND_910C}
ALIASES = {
    "910c": "ascend-910c",
    "ascend 910c 128gb": "ascend-910c",
    "cloudmatrix": "cloudmatrix-384",
    "atlas 900 a3": "cloudmatrix-384",
}

_SWITCH = assumed(0.2e-6, 0.1e-6, 0.5e-6, "s", f"{PAPER}: under 1 us more between nodes; UB 2: 0.2")
_NO_REDUCTION = no("none is described in the paper")


def _ub(name: str, cards: int, hops: Quantity) -> Fabric:
    return Fabric(
        name=name,
        mesh=no(f"{PAPER}: two layers of switches without blocking"),
        link=UB,
        cards=said(cards, "", PAPER),
        hops=hops,
        switch_latency=_SWITCH,
        reduction=_NO_REDUCTION,
    )


_IN_NODE = _ub("UB in a node", 8, said(1, "", f"{PAPER}: seven switches in a node of eight"))
_RDMA = roce(nic(400, f"{PAPER}: up to 400 Gb/s a card"))
CLUSTERS = {
    "ascend-910c": ClusterSpec(
        name="CloudMatrix node of eight Ascend 910C",
        device=ASCEND_910C,
        cards=said(8, "", PAPER),
        node_cards=said(8, "", PAPER),
        tiers=(_IN_NODE, _RDMA),
        power=assumed(
            9.6e3, 7e3, 11.7e3, "W", "eight cards at 600 to 900 W and 3 to 4 kW; a 48th of 559 kW"
        ),
    ),
    "cloudmatrix-384": ClusterSpec(
        name="CloudMatrix384",
        device=ASCEND_910C,
        cards=said(384, "", PAPER),
        node_cards=said(8, "", PAPER),
        tiers=(
            _IN_NODE,
            _ub("UB", 384, said(3, "", f"{PAPER}: node, rack and node switch")),
            _RDMA,
        ),
        power=draw(559e3, "SemiAnalysis on CloudMatrix384"),
    ),
}
