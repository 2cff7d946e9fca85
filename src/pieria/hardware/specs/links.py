"""Links that cards of several families have, and the fabrics made of them.

Bandwidths are one way: half of what vendors give for both directions together.
"""

from pieria.hardware.fabric import Fabric
from pieria.hardware.spec import Link, Quantity
from pieria.hardware.specs.quote import assumed, no, said, yes

TUNING = "NCCL's tuning.cc (hwLat, ring, LL)"
"""The seconds a hop of a small message takes: NVLink 0.47 to 0.6 us, PCIe 1.0, network 2.7."""
DEEPSEEK = "DeepSeek-V3 on hardware, arXiv 2505.09343, table 5 (64 bytes, CPU to CPU)"

SM_COLLECTIVES = no(
    "NCCL runs collectives on multiprocessors; copy engines only since 2.28, for registered memory",
    inferred=True,
)
NO_SWITCH = Quantity(0, "s", "there is no switch")
DIRECT = Quantity(0, "", "a full mesh passes no switch")


_FAT_TREE = no("a fat tree without blocking, each card's rail to its own leaf", inferred=True)


def nvlink(generation: int, bandwidth: Quantity, ports: Quantity, efficiency: Quantity) -> Link:
    latency = assumed(
        0.3e-6,
        0.15e-6,
        0.6e-6,
        "s",
        f"half of the 0.6 us to the next card through one switch in {TUNING}; assumption",
    )
    name = f"NVLink {generation}"
    return Link(name, bandwidth, latency, efficiency, SM_COLLECTIVES, ports)


def nvswitch(name: str, link: Link, cards: int, reduction: bool) -> Fabric:
    """Every card to every other one through one layer of switches."""
    return Fabric(
        name=name,
        mesh=no("NVIDIA: any card reaches any other at full bandwidth through NVSwitch"),
        link=link,
        cards=Quantity(cards, "", "NVIDIA's data sheet of the system"),
        hops=Quantity(1, "", "one layer of switches"),
        switch_latency=assumed(
            0.3e-6,
            0.1e-6,
            0.45e-6,
            "s",
            f"the other half of the 0.6 us in {TUNING}; assumption",
        ),
        reduction=yes("NVLink SHARP (NVLS), since the third NVSwitch")
        if reduction
        else no("NVLink SHARP came with the third NVSwitch, after this one"),
    )


NVLINK3 = nvlink(
    3,
    said(300e9, "B/s", "NVIDIA A100 data sheet: 600 GB/s both ways"),
    said(12, "", "NVIDIA A100 whitepaper"),
    said(
        0.74,
        "",
        "222 GB/s all-reduce, 205 all-gather and 203 all-to-all bus bandwidth of 8 cards at 512 MiB"
        " (aiconfigurator 095f58a, NCCL 2.27) of 300",
        low=0.68,
        high=0.78,
    ),
)
_HOPPER_WIRE = said(
    0.80,
    "",
    "DeepEP gets 160 of 200 GB/s on H800; 336 all-gather and 317 all-to-all bus bandwidth at"
    " 512 MiB (aiconfigurator 095f58a, NCCL 2.27) of 450",
    low=0.70,
    high=0.92,
)
NVLINK4 = nvlink(
    4,
    said(450e9, "B/s", "NVIDIA H100 data sheet: 900 GB/s both ways"),
    said(18, "", "NVIDIA H100 whitepaper"),
    _HOPPER_WIRE,
)
NVLINK4_H800 = nvlink(
    4,
    said(200e9, "B/s", "400 GB/s both ways: aiwiki.ai/wiki/nvidia_h800, philisun.com, DeepEP"),
    said(8, "", "400 GB/s in links of 50 GB/s both ways"),
    _HOPPER_WIRE,
)
NVLINK5 = nvlink(
    5,
    said(900e9, "B/s", "NVIDIA Blackwell data sheet: 1.8 TB/s both ways"),
    said(18, "", "NVIDIA Blackwell data sheet"),
    said(
        0.81,
        "",
        "DeepEP V2 gets 726 to 740 of 900 GB/s at EP8; 562 all-to-all bus bandwidth at 512 MiB"
        " (aiconfigurator 095f58a, NCCL 2.27)",
        low=0.62,
        high=0.92,
    ),
)


def pcie(generation: int, one_way: float) -> Link:
    """16 lanes."""
    return Link(
        name=f"PCIe {generation}",
        bandwidth=said(one_way, "B/s", f"PCI Express {generation}.0, 16 lanes"),
        latency=assumed(1.0e-6, 0.7e-6, 2.5e-6, "s", f"{TUNING}; with a host bridge more"),
        efficiency=assumed(
            0.85, 0.40, 0.90, "", "packet headers and credits; half where data passes host memory"
        ),
        copy_engines=no("collectives over PCIe run on multiprocessors", inferred=True),
    )


PCIE4, PCIE5, PCIE6 = pcie(4, 32e9), pcie(5, 64e9), pcie(6, 128e9)


def host_bridges(link: Link, cards: int) -> Fabric:
    """Cards in one server without links of their own."""
    return Fabric(
        name=f"{link.name} host",
        mesh=no(
            "the server's processors and switches carry every card's lanes at once", inferred=True
        ),
        link=link,
        cards=assumed(cards, 2, 16, "", "a server of this many cards"),
        hops=assumed(1, 1, 3, "", "host bridge or PCIe switch; more between sockets"),
        switch_latency=assumed(0.5e-6, 0.1e-6, 1.5e-6, "s", "assumption"),
        reduction=no("PCIe switches do not add"),
    )


def nic(gigabits: float, source: str, low: float | None = None, high: float | None = None) -> Link:
    """One network card for each card; bits/s 10^9 one way."""
    scale = 1e9 / 8
    return Link(
        name=f"{gigabits:g}G network",
        bandwidth=said(
            gigabits * scale,
            "B/s",
            source,
            low=None if low is None else low * scale,
            high=None if high is None else high * scale,
        ),
        latency=assumed(
            2.5e-6,
            1.0e-6,
            3.6e-6,
            "s",
            f"2.7 us in {TUNING}, 2.8 of InfiniBand and 3.6 of RoCE over one switch in {DEEPSEEK},"
            " less the switch",
        ),
        efficiency=assumed(
            0.92, 0.80, 0.97, "", "headers and congestion; DeepEP fills a 400G card at EP16 to EP64"
        ),
        copy_engines=no("NCCL's proxies send, multiprocessors stage and add", inferred=True),
    )


def infiniband(link: Link) -> Fabric:
    return Fabric(
        name=f"InfiniBand, {link.name}",
        mesh=_FAT_TREE,
        link=link,
        cards=None,
        hops=assumed(3, 1, 5, "", "leaf, spine, leaf; 1 within a leaf, 5 in three tiers"),
        switch_latency=assumed(
            0.35e-6, 0.2e-6, 0.6e-6, "s", f"2.8 us in one leaf, 3.7 across, in {DEEPSEEK}"
        ),
        reduction=no("SHARP is not assumed on the network", inferred=True),
    )


def roce(link: Link) -> Fabric:
    return Fabric(
        name=f"RoCE, {link.name}",
        mesh=_FAT_TREE,
        link=link,
        cards=None,
        hops=assumed(3, 1, 5, "", "leaf, spine, leaf; 1 within a leaf, 5 in three tiers"),
        switch_latency=assumed(
            1.0e-6, 0.5e-6, 1.2e-6, "s", f"3.6 us in one leaf, 5.6 across, in {DEEPSEEK}"
        ),
        reduction=no("Ethernet switches do not add"),
    )
