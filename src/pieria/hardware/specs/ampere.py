"""NVIDIA's A100 with 40 and 80 GB, on SXM boards and PCIe cards."""

from dataclasses import replace

from pieria.hardware.cluster import ClusterSpec
from pieria.hardware.fabric import Fabric
from pieria.hardware.spec import DeviceSpec, Quantity
from pieria.hardware.specs.launch import AS_H100, GAP, LAUNCH, REPLAY
from pieria.hardware.specs.links import NVLINK3, PCIE4, host_bridges, infiniband, nic, nvswitch
from pieria.hardware.specs.quote import GIB, MIB, assumed, draw, said, tera

SHEET = "NVIDIA A100 data sheet"
WHITEPAPER = "NVIDIA A100 architecture whitepaper, dense"

A100_SXM_80 = DeviceSpec(
    name="NVIDIA A100 SXM 80 GB",
    vendor="NVIDIA",
    memory=said(
        79.15 * GIB,
        "B",
        "torch's total capacity in users' reports; 81920 MiB of nvidia-smi",
        high=80 * GIB,
    ),
    native_dtypes=frozenset({"float64", "float32", "bfloat16", "float16", "int8"}),
    cache=said(40 * MIB, "B", WHITEPAPER),
    bandwidth=said(2.039e12, "B/s", SHEET),
    flops=tera(
        WHITEPAPER,
        float64=19.5,
        float32=19.5,
        tfloat32=156.0,
        bfloat16=312.0,
        float16=312.0,
        int8=624.0,
    ),
    units=said(108, "", WHITEPAPER),
    launch=LAUNCH,
    replay=REPLAY,
    gap=GAP,
    power=draw(400, SHEET),
    utilisation=AS_H100,
    links=(NVLINK3, PCIE4),
)
A100_SXM_40 = replace(
    A100_SXM_80,
    name="NVIDIA A100 SXM 40 GB",
    memory=said(
        40326 * MIB,
        "B",
        "torch's device properties of the PCIe card; 40960 MiB of nvidia-smi",
        high=40 * GIB,
    ),
    bandwidth=said(1.555e12, "B/s", SHEET),
)
A100_PCIE_80 = replace(
    A100_SXM_80,
    name="NVIDIA A100 PCIe 80 GB",
    bandwidth=said(1.935e12, "B/s", SHEET),
    power=draw(300, SHEET),
    links=(PCIE4,),
)
A100_PCIE_40 = replace(
    A100_SXM_40,
    name="NVIDIA A100 PCIe 40 GB",
    power=draw(250, SHEET),
    links=(PCIE4,),
)

DEVICES = {
    "a100-sxm-80": A100_SXM_80,
    "a100-sxm-40": A100_SXM_40,
    "a100-pcie-80": A100_PCIE_80,
    "a100-pcie-40": A100_PCIE_40,
}
ALIASES = {
    "a100": "a100-sxm-80",
    "a100 sxm": "a100-sxm-80",
    "a100 sxm4": "a100-sxm-80",
    "a100 pcie": "a100-pcie-80",
    **{
        f"a100 {form} {size}gb".strip(): f"a100-{board}-{size}"
        for form, board in (("", "sxm"), ("sxm", "sxm"), ("sxm4", "sxm"), ("pcie", "pcie"))
        for size in (40, 80)
    },
}


def _node(name: str, device: DeviceSpec, fabric: Fabric, power: Quantity) -> ClusterSpec:
    return ClusterSpec(
        name=name,
        device=device,
        cards=said(8, "", "DGX A100 data sheet"),
        node_cards=said(8, "", "DGX A100 data sheet"),
        tiers=(
            fabric,
            infiniband(nic(200, "DGX A100 data sheet: eight ConnectX-6 of 200 Gb/s")),
        ),
        power=power,
    )


_NVLINK = nvswitch("NVLink 3 of 8", NVLINK3, 8, reduction=False)
_DGX_POWER = draw(6.5e3, "DGX A100 data sheet")
_SERVER_POWER = assumed(
    3.6e3, 3.0e3, 4.5e3, "W", "eight cards at 250 to 300 W, and 1 to 2 kW for the host"
)
CLUSTERS = {
    "a100-sxm-80": _node("DGX A100 80 GB", A100_SXM_80, _NVLINK, _DGX_POWER),
    "a100-sxm-40": _node("DGX A100 40 GB", A100_SXM_40, _NVLINK, _DGX_POWER),
    "a100-pcie-80": _node(
        "eight A100 PCIe 80 GB", A100_PCIE_80, host_bridges(PCIE4, 8), _SERVER_POWER
    ),
    "a100-pcie-40": _node(
        "eight A100 PCIe 40 GB", A100_PCIE_40, host_bridges(PCIE4, 8), _SERVER_POWER
    ),
}
