"""NVIDIA's RTX 4090 and RTX PRO 6000: cards for servers without links of their own."""

from pieria.hardware.cluster import ClusterSpec
from pieria.hardware.spec import DeviceSpec, Link, Quantity
from pieria.hardware.specs.launch import AS_H100, GAP, LAUNCH, REPLAY
from pieria.hardware.specs.links import PCIE4, PCIE5, host_bridges, nic, roce
from pieria.hardware.specs.quote import GIB, MIB, assumed, draw, said

ADA = "NVIDIA Ada architecture whitepaper, dense"
SERVER = "aiconfigurator-core 0.12, systems: Server Edition at the 2.43 GHz that a node reports"
BOOST = "the Workstation Edition's data sheet has 2.62 GHz"


def _both(slow: float, fast: float, unit: str = "FLOP/s") -> Quantity:
    """In 10^12 operations/s, at the two clocks."""
    return said(slow * 1e12, unit, f"{SERVER}; {BOOST}", high=fast * 1e12)


RTX_4090 = DeviceSpec(
    name="NVIDIA GeForce RTX 4090",
    vendor="NVIDIA",
    memory=said(
        23.65 * GIB,
        "B",
        "torch's total capacity in users' reports; 24564 MiB of nvidia-smi",
        high=24563 * MIB,
    ),
    native_dtypes=frozenset(
        {"float64", "float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "int8"}
    ),
    cache=said(72 * MIB, "B", "torch's device properties in a user's report"),
    bandwidth=said(1.008e12, "B/s", ADA),
    flops={
        "float64": said(1.29e12, "FLOP/s", f"{ADA}: 1/64 of FP32"),
        "float32": said(82.6e12, "FLOP/s", ADA),
        "tfloat32": said(82.6e12, "FLOP/s", ADA),
        "bfloat16": said(165.2e12, "FLOP/s", ADA),
        "float16": said(165.2e12, "FLOP/s", f"{ADA}; twice into FP16", high=330.3e12),
        "float8": said(330.3e12, "FLOP/s", f"{ADA}; twice into FP16", high=660.6e12),
        "int8": said(660.6e12, "OP/s", ADA),
    },
    units=said(128, "", ADA),
    launch=LAUNCH,
    replay=REPLAY,
    gap=GAP,
    power=draw(450, ADA),
    utilisation=AS_H100,
    links=(PCIE4,),
)
RTX_PRO_6000 = DeviceSpec(
    name="NVIDIA RTX PRO 6000 Blackwell Server Edition",
    vendor="NVIDIA",
    memory=said(
        97250 * MIB,
        "B",
        "torch's device properties in a user's report; 97887 MiB of nvidia-smi",
        high=97887 * MIB,
    ),
    native_dtypes=frozenset(
        {
            *("float64", "float32", "bfloat16", "float16", "int8"),
            *("float8_e4m3fn", "float8_e5m2", "float4_e2m1fn_x2"),
        }
    ),
    cache=said(128 * MIB, "B", "NVIDIA RTX Blackwell PRO whitepaper"),
    bandwidth=said(
        1.597e12,
        "B/s",
        "the Server Edition's data sheet; 1.792 TB/s of the Workstation's",
        high=1.792e12,
    ),
    flops={
        "float64": _both(1.83, 1.97),
        "float32": _both(117.0, 126.0),
        "tfloat32": _both(233.9, 251.9),
        "bfloat16": _both(467.8, 503.8),
        "float16": _both(467.8, 503.8),
        "float8": _both(935.6, 1007.6),
        "int8": _both(935.6, 1007.6, "OP/s"),
        "float4": _both(1871.2, 2015.2),
    },
    units=said(188, "", "NVIDIA RTX Blackwell PRO whitepaper"),
    launch=LAUNCH,
    replay=REPLAY,
    gap=GAP,
    power=said(600, "W", "the Server Edition's data sheet, 400 to 600 W", low=400),
    utilisation=AS_H100,
    links=(PCIE5,),
)

DEVICES = {"rtx-4090": RTX_4090, "rtx-pro-6000": RTX_PRO_6000}
ALIASES = {
    "4090": "rtx-4090",
    "rtx 4090 24gb": "rtx-4090",
    "rtx pro 6000 96gb": "rtx-pro-6000",
}


def _server(name: str, device: DeviceSpec, link: Link, power: Quantity) -> ClusterSpec:
    eight = assumed(8, 2, 8, "", "a server of eight cards")
    return ClusterSpec(
        name=name,
        device=device,
        cards=eight,
        node_cards=eight,
        tiers=(
            host_bridges(link, 8),
            roce(nic(100, "assumption: as much as a server shares", low=25, high=400)),
        ),
        power=power,
    )


CLUSTERS = {
    "rtx-4090": _server(
        "eight RTX 4090",
        RTX_4090,
        PCIE4,
        assumed(5.0e3, 4.2e3, 5.6e3, "W", "eight cards at 450 W, and 1 to 2 kW for the host"),
    ),
    "rtx-pro-6000": _server(
        "eight RTX PRO 6000",
        RTX_PRO_6000,
        PCIE5,
        assumed(6.4e3, 4.2e3, 6.8e3, "W", "eight cards at 400 to 600 W, 1 to 2 kW for the host"),
    ),
}
