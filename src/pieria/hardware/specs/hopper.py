"""NVIDIA's H100, H200, H800 and H20 on SXM boards."""

from dataclasses import replace

from pieria.hardware.cluster import ClusterSpec
from pieria.hardware.spec import DeviceSpec, Link, Quantity
from pieria.hardware.specs.launch import AS_H100, GAP, LAUNCH, REPLAY
from pieria.hardware.specs.links import (
    NVLINK4,
    NVLINK4_H800,
    PCIE5,
    infiniband,
    nic,
    nvswitch,
    roce,
)
from pieria.hardware.specs.quote import MIB, assumed, draw, said, tera

WHITEPAPER = "NVIDIA H100 architecture whitepaper, dense"
PROPERTIES = "torch's device properties, as published from cloud machines"

NATIVE = frozenset(
    {"float64", "float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "int8"}
)
FULL = tera(
    WHITEPAPER,
    float64=66.9,
    float32=66.9,
    tfloat32=494.7,
    bfloat16=989.4,
    float16=989.4,
    float8=1978.9,
    int8=1978.9,
)

H100 = DeviceSpec(
    name="NVIDIA H100 SXM 80 GB",
    vendor="NVIDIA",
    memory=said(81089 * MIB, "B", PROPERTIES, low=81082 * MIB, high=81090 * MIB),
    native_dtypes=NATIVE,
    cache=said(50 * MIB, "B", WHITEPAPER),
    bandwidth=said(3.35e12, "B/s", "NVIDIA H100 data sheet"),
    flops=FULL,
    units=said(132, "", WHITEPAPER),
    launch=LAUNCH,
    replay=REPLAY,
    gap=GAP,
    power=draw(700, "NVIDIA H100 data sheet"),
    links=(NVLINK4, PCIE5),
)
H200 = replace(
    H100,
    name="NVIDIA H200 SXM 141 GB",
    memory=said(143156 * MIB, "B", PROPERTIES),
    cache=said(60 * MIB, "B", PROPERTIES),
    bandwidth=said(4.8e12, "B/s", "NVIDIA H200 data sheet"),
    power=draw(700, "NVIDIA H200 data sheet"),
)
H800 = replace(
    H100,
    name="NVIDIA H800 SXM 80 GB",
    memory=assumed(81089 * MIB, 81000 * MIB, 81920 * MIB, "B", "an H100's; 80 GB are published"),
    bandwidth=said(3.35e12, "B/s", "philisun.com on H800 and H100: as H100"),
    flops={**FULL, **tera("aiwiki.ai/wiki/nvidia_h800, philisun.com: 1 TFLOPS", float64=1.0)},
    utilisation=AS_H100,
    links=(NVLINK4_H800, PCIE5),
)
H20 = replace(
    H100,
    name="NVIDIA H20 96 GB",
    memory=said(97285 * MIB, "B", PROPERTIES),
    cache=said(60 * MIB, "B", "ke60.top on H20's memory"),
    bandwidth=said(4.0e12, "B/s", "zangshuxian.com and willitrunai.com on H20"),
    flops=tera(
        "zangshuxian.com and willitrunai.com on H20, dense",
        float64=1.0,
        float32=44.0,
        tfloat32=74.0,
        bfloat16=148.0,
        float16=148.0,
        float8=296.0,
        int8=296.0,
    ),
    units=said(78, "", PROPERTIES),
    power=draw(400, "willitrunai.com on H20"),
    utilisation=AS_H100,
)

DEVICES = {"h100": H100, "h200": H200, "h800": H800, "h20": H20}
ALIASES = {
    **{f"{name} sxm": name for name in DEVICES},
    **{f"{name} sxm5": name for name in DEVICES},
    "h100 80gb": "h100",
    "h100 sxm 80gb": "h100",
    "h100 sxm5 80gb": "h100",
    "h200 141gb": "h200",
    "h200 sxm 141gb": "h200",
    "h800 80gb": "h800",
    "h800 sxm 80gb": "h800",
    "h20 96gb": "h20",
}


def _node(
    name: str, device: DeviceSpec, link: Link, power: Quantity, ethernet: bool
) -> ClusterSpec:
    source = "DGX H100 user guide: eight ConnectX-7 of 400 Gb/s for eight cards"
    network = nic(400, source)
    return ClusterSpec(
        name=name,
        device=device,
        cards=said(8, "", "HGX data sheet"),
        node_cards=said(8, "", "HGX data sheet"),
        tiers=(
            nvswitch(f"{link.name} of 8", link, 8, reduction=True),
            roce(network) if ethernet else infiniband(network),
        ),
        power=power,
    )


_DGX_POWER = draw(10.2e3, "DGX H100 user guide")
CLUSTERS = {
    "h100": _node("DGX H100", H100, NVLINK4, _DGX_POWER, ethernet=False),
    "h200": _node("DGX H200", H200, NVLINK4, _DGX_POWER, ethernet=False),
    "h800": _node("HGX H800", H800, NVLINK4_H800, _DGX_POWER, ethernet=False),
    "h20": _node(
        "HGX H20",
        H20,
        NVLINK4,
        assumed(6.5e3, 5.0e3, 7.8e3, "W", "a DGX H100 with cards of 400 instead of 700 W"),
        ethernet=True,
    ),
}
