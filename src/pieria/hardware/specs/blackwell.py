"""NVIDIA's B200 and B300 in servers of eight, GB200 and GB300 in racks of 72."""

from dataclasses import replace

from pieria.hardware.cluster import ClusterSpec
from pieria.hardware.spec import DeviceSpec, Quantity
from pieria.hardware.specs.launch import AS_H100, GAP, LAUNCH, REPLAY
from pieria.hardware.specs.links import NVLINK5, PCIE5, PCIE6, infiniband, nic, nvswitch
from pieria.hardware.specs.quote import MIB, assumed, draw, said, tera

SHEET = "NVIDIA Blackwell data sheet, dense"
ULTRA = "NVIDIA Blackwell Ultra data sheet, dense"
SYSTEMS = "aiconfigurator-core 0.12, systems"
PROPERTIES = "torch's device properties, as published from cloud machines"
SMI = f"{SYSTEMS}: as nvidia-smi reports; programs see up to 0.5 % less"

B200 = DeviceSpec(
    name="NVIDIA B200 180 GB",
    vendor="NVIDIA",
    memory=said(182642 * MIB, "B", PROPERTIES, low=182631 * MIB),
    native_dtypes=frozenset(
        {
            *("float64", "float32", "bfloat16", "float16", "int8"),
            *("float8_e4m3fn", "float8_e5m2", "float4_e2m1fn_x2"),
        }
    ),
    cache=said(126 * MIB, "B", PROPERTIES),
    bandwidth=said(7.7e12, "B/s", f"{SHEET}: 62 TB/s for eight, 8 TB/s at best", high=8.0e12),
    flops={
        **tera(SHEET, bfloat16=2250.0, float16=2250.0, float8=4500.0, int8=4500.0, float4=9000.0),
        "tfloat32": said(1125e12, "FLOP/s", f"{SHEET}; early sheets 1100", low=1100e12),
        "float32": said(75e12, "FLOP/s", f"{SHEET}; early sheets 80", high=80e12),
        "float64": said(37e12, "FLOP/s", f"{SHEET}; early sheets 40", high=40e12),
    },
    units=said(148, "", PROPERTIES),
    launch=LAUNCH,
    replay=REPLAY,
    gap=GAP,
    power=draw(1000, SHEET),
    utilisation=AS_H100,
    links=(NVLINK5, PCIE6),
)
B300 = replace(
    B200,
    name="NVIDIA B300 288 GB",
    memory=said(275040 * MIB, "B", SMI, low=273600 * MIB),
    cache=assumed(126 * MIB, 96 * MIB, 192 * MIB, "B", "as B200's; not published"),
    bandwidth=said(7.75e12, "B/s", f"{ULTRA}: 62 TB/s for eight, 8 TB/s at best", high=8.0e12),
    flops={
        **tera(
            ULTRA, tfloat32=1125.0, bfloat16=2250.0, float16=2250.0, float8=4500.0, float32=75.0
        ),
        "float64": said(1.25e12, "FLOP/s", ULTRA),
        "int8": said(153.5e12, "OP/s", f"{ULTRA}: 307 sparse; early sheets 250", low=125e12),
        "float4": said(14e15, "FLOP/s", f"{ULTRA}; early sheets 13.1 and 18", low=13.125e15),
    },
    units=said(
        160,
        "",
        "NVIDIA's blog on Blackwell Ultra: 160 of the full chip; B200 has 148 enabled",
        low=148,
    ),
    power=draw(1100, ULTRA),
)
GB200 = replace(
    B200,
    name="NVIDIA GB200 (one GPU)",
    memory=said(189471 * MIB, "B", SMI, low=188500 * MIB),
    bandwidth=said(8.0e12, "B/s", f"{SHEET}: 576 TB/s for 72"),
    flops={
        **tera(
            f"{SHEET}: NVL72 / 72",
            tfloat32=1250.0,
            bfloat16=2500.0,
            float16=2500.0,
            float8=5000.0,
            int8=5000.0,
            float4=10000.0,
        ),
        "float32": said(80e12, "FLOP/s", f"{SHEET}; early sheets 90", high=90e12),
        "float64": said(40e12, "FLOP/s", f"{SHEET}; early sheets 45", high=45e12),
    },
    units=said(152, "", "github.com, kernels' tests for GB200: multi_processor_count=152"),
    power=draw(1200, SHEET),
    links=(NVLINK5, PCIE5),
)
GB300 = replace(
    GB200,
    name="NVIDIA GB300 (one GPU)",
    memory=said(284208 * MIB, "B", SMI, low=282700 * MIB),
    cache=assumed(126 * MIB, 96 * MIB, 192 * MIB, "B", "as B200's; not published"),
    bandwidth=said(8.0e12, "B/s", f"{ULTRA}: 576 TB/s for 72"),
    flops={
        **tera(
            f"{ULTRA}: NVL72 / 72",
            tfloat32=1250.0,
            bfloat16=2500.0,
            float16=2500.0,
            float8=5000.0,
            int8=165.0,
            float4=15000.0,
        ),
        "float32": said(80e12, "FLOP/s", f"{ULTRA}: NVL72 / 72", high=83.4e12),
        "float64": said(1.3e12, "FLOP/s", f"{ULTRA}: NVL72 / 72", high=1.4e12),
    },
    units=said(
        160,
        "",
        "NVIDIA's blog on Blackwell Ultra: 160 of the full chip; GB200 has 152 enabled",
        low=152,
    ),
    power=draw(1400, ULTRA),
)

DEVICES = {"b200": B200, "b300": B300, "gb200": GB200, "gb300": GB300}
ALIASES = {
    "b200 sxm": "b200",
    "b200 180gb": "b200",
    "b200 sxm 180gb": "b200",
    "b200 192gb": "b200",
    "b300 sxm": "b300",
    "b300 288gb": "b300",
    "b300 sxm 288gb": "b300",
    "gb200 nvl72": "gb200",
    "gb300 nvl72": "gb300",
}


def _system(
    name: str, device: DeviceSpec, cards: int, host: int, network: Quantity, power: Quantity
) -> ClusterSpec:
    source = "NVIDIA's data sheet of the system"
    gigabits = network.value * 8 / 1e9
    link = nic(gigabits, network.source)
    return ClusterSpec(
        name=name,
        device=device,
        cards=said(cards, "", source),
        node_cards=said(host, "", source),
        tiers=(nvswitch(f"NVLink 5 of {cards}", NVLINK5, cards, True), infiniband(link)),
        power=power,
    )


_CX7 = said(50e9, "B/s", "ConnectX-7 of 400 Gb/s for each card")
_CX8 = said(100e9, "B/s", "ConnectX-8 of 800 Gb/s for each card")
CLUSTERS = {
    "b200": _system("DGX B200", B200, 8, 8, _CX7, draw(14.3e3, "DGX B200 data sheet")),
    "b300": _system("DGX B300", B300, 8, 8, _CX8, draw(14e3, "DGX B300 data sheet")),
    "gb200": _system(
        "GB200 NVL72",
        GB200,
        72,
        4,
        _CX7,
        said(
            132e3, "W", "120 to 145 kW a rack (SemiAnalysis, ai-infrastructure.net)", 120e3, 145e3
        ),
    ),
    "gb300": _system(
        "GB300 NVL72",
        GB300,
        72,
        4,
        _CX8,
        said(
            140e3,
            "W",
            "120 to 140 kW a rack (ai-infrastructure.net); cards of 1400 instead of 1200 W",
            120e3,
            160e3,
        ),
    ),
}
