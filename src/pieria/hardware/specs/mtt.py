"""Moore Threads' MTT S5000 and S4000.

Of the S5000 only FP8 peak, memory and link bandwidth are published. All else is measured by others
or inferred: 8192 FP8 operations a clock and multiprocessor at about 2.03 GHz give the published
1000 TFLOPS with 60 multiprocessors and the 920 of the air-cooled card with 56, and the other peaks
follow by the ratios of the matrix unit's formats. If "1000 TFLOPS" is meant for BF16, as some
reports have it, BF16 is twice as fast as that: the upper bounds carry it.
"""

from dataclasses import replace

from pieria.hardware.cluster import ClusterSpec
from pieria.hardware.fabric import Fabric
from pieria.hardware.spec import DeviceSpec, Fact, Link, Quantity
from pieria.hardware.specs.launch import AS_H100
from pieria.hardware.specs.links import DIRECT, NO_SWITCH, PCIE5, TUNING, nic, roce
from pieria.hardware.specs.quote import GIB, MIB, assumed, draw, no, said, yes

FIELD_TEST = "field test of eight S5000 (60 MPs, MUSA 4.3.5) in a public blog, 2026-07-14"
SDK = "MUSA SDK 5.2 install guide, musaInfo"
MODEL = "the matrix unit's ratio of formats, 8192 FP8 operations a clock and MP at 2.03 GHz"

MTLINK = Link(
    name="MTLink",
    bandwidth=said(
        392e9,
        "B/s",
        "784 GB/s both ways (ldeepai.com, 2026-02), 14 ports of 28 GB/s each way",
    ),
    latency=assumed(
        0.5e-6, 0.3e-6, 3.0e-6, "s", f"not published; a direct link as NVLink's in {TUNING}"
    ),
    efficiency=said(
        0.6375,
        "",
        f"{FIELD_TEST}: 35.7 of 56 GB/s between two cards; 155.7 GB/s all-to-all bus bandwidth of"
        " 392 among eight; the vendor says 0.97",
        low=0.397,
        high=0.97,
    ),
    copy_engines=yes(
        "Moore Threads, WAIC 2025: ACE moves data asynchronously and saves 15 % of compute",
        inferred=True,
    ),
    ports=said(14, "", f"{FIELD_TEST}: 112 of 112 ports up"),
)


def _peaks(mps: int, fp8: Quantity) -> dict[str, Quantity]:
    """Fractions of FP8's peak.

    Bounds: what was measured on 60 MPs from below, `most` of FP8's own bound from above.
    """
    share = mps / 60
    low, high = fp8.bounds

    def part(fraction: float, at_least: float, most: float, unit: str, why: str) -> Quantity:
        return assumed(
            fp8.value * fraction,
            min(at_least * share, low * fraction),
            high * most,
            unit,
            f"{fraction:.0%} of FP8's: {MODEL}; {why}",
        )

    ambiguous = "if the published peak is BF16's, twice as much"
    return {
        "float8": fp8,
        "int8": part(1.0, 446e12, 1.0, "OP/s", "446 TOPS measured"),
        "bfloat16": part(0.5, 385e12, 1.0, "FLOP/s", f"297 TFLOPS measured; {ambiguous}"),
        "float16": part(0.5, 385e12, 1.0, "FLOP/s", f"385 TFLOPS measured; {ambiguous}"),
        "tfloat32": part(0.25, 159e12, 0.5, "FLOP/s", f"159 TFLOPS measured; {ambiguous}"),
        "float32": assumed(
            31e12 * share,
            24.4e12 * share,
            33e12 * share,
            "FLOP/s",
            f"256 operations a clock and MP; 24 to 26 TFLOPS measured ({FIELD_TEST}, FlagGems)",
        ),
        "float64": assumed(
            15.6e12 * share,
            0.5e12 * share,
            31e12 * share,
            "FLOP/s",
            "half of FP32's; said to be supported, no number is known",
        ),
    }


S5000 = DeviceSpec(
    name="MTT S5000 (60 MPs, liquid)",
    vendor="Moore Threads",
    memory=said(85813358592, "B", FIELD_TEST),
    native_dtypes=frozenset(
        {"float64", "float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "int8"}
    ),
    cache=said(60 * MIB, "B", SDK),
    bandwidth=said(
        1.6e12, "B/s", f"{SDK}: 640 bits at 20 Gb/s; 1.422 TB/s reached by STREAM triad"
    ),
    flops=_peaks(
        60,
        said(
            1000e12,
            "FLOP/s",
            "Moore Threads, up to 1000 TFLOPS (reportify.ai: liquid cooled; myzaker.com: 1024);"
            " 899 measured",
            low=899e12,
            high=1024e12,
        ),
    ),
    units=said(60, "", FIELD_TEST),
    launch=said(6.258e-6, "s", FIELD_TEST),
    replay=said(27.904e-6, "s", FIELD_TEST),
    gap=assumed(1.0e-6, 0.5e-6, 3.5e-6, "s", "not known; small kernels take 3 to 4 us (FlagGems)"),
    power=assumed(
        950, 400, 950, "W", "no TDP is published: the limit that GMI reports; 400 W in memory tests"
    ),
    utilisation=assumed(
        1.0,
        0.77,
        1.2,
        "",
        "as an H100's, where no call of this shape was measured; those that were reach, of the same"
        " on an H100 and at the peaks assumed here: products of 1024^3 and more 0.77 to 0.93, the"
        f" largest of FP8 1.5, attention 1.2, reading and writing 0.96 to 1.12 ({FIELD_TEST},"
        " FlagGems)",
    ),
    links=(MTLINK, PCIE5),
)
S5000_AIR = replace(
    S5000,
    name="MTT S5000 (60 MPs, air)",
    flops=_peaks(
        60,
        assumed(
            920e12,
            899e12,
            1000e12,
            "FLOP/s",
            "reportify.ai 2026-02: 920 air cooled, perhaps of the card with 56 MPs; 899 measured",
        ),
    ),
)
S5000_56 = replace(
    S5000,
    name="MTT S5000 (56 MPs, liquid)",
    flops=_peaks(
        56,
        assumed(933e12, 839e12, 1024e12, "FLOP/s", "56/60 of the 1000 TFLOPS of the larger bin"),
    ),
    units=said(56, "", SDK),
)
S5000_56_AIR = replace(
    S5000_56,
    name="MTT S5000 (56 MPs, air)",
    flops=_peaks(
        56,
        assumed(
            920e12,
            839e12,
            933e12,
            "FLOP/s",
            "reportify.ai 2026-02: 920 air cooled; 56 x 8192 x 2.0 GHz are 917",
        ),
    ),
)

MTLINK1 = Link(
    name="MTLink 1",
    bandwidth=said(120e9, "B/s", "Moore Threads S4000: 240 GB/s both ways (io-tech.fi, 2023-12)"),
    latency=assumed(0.5e-6, 0.3e-6, 3.0e-6, "s", "not published; as MTLink's"),
    efficiency=assumed(0.64, 0.40, 0.80, "", "not published; as MTLink's"),
    copy_engines=no("not known of this generation", inferred=True),
)
_S4000_SHEET = "docs.mthreads.com, S4000 specification"
S4000 = DeviceSpec(
    name="MTT S4000",
    vendor="Moore Threads",
    memory=said(48 * GIB, "B", f"{_S4000_SHEET}; 49152 MiB reported", low=47.5 * GIB),
    native_dtypes=frozenset({"float32", "bfloat16", "float16", "int8"}),
    bandwidth=said(768e9, "B/s", f"{_S4000_SHEET}: 384 bits at 16 Gb/s"),
    flops={
        "float32": said(25e12, "FLOP/s", f"{_S4000_SHEET}"),
        "tfloat32": said(50e12, "FLOP/s", f"{_S4000_SHEET}; itbear.com.cn has 49", low=49e12),
        "bfloat16": said(100e12, "FLOP/s", f"{_S4000_SHEET}; itbear.com.cn has 98", low=98e12),
        "float16": said(100e12, "FLOP/s", f"{_S4000_SHEET}; itbear.com.cn has 98", low=98e12),
        "int8": said(200e12, "OP/s", f"{_S4000_SHEET}; itbear.com.cn has 196", low=196e12),
    },
    launch=assumed(6.3e-6, 4e-6, 10e-6, "s", "not known; as S5000's"),
    power=draw(450, _S4000_SHEET),
    utilisation=AS_H100,
    links=(MTLINK1, PCIE5),
)

DEVICES = {
    "mtt-s5000": S5000,
    "mtt-s5000-air": S5000_AIR,
    "mtt-s5000-56": S5000_56,
    "mtt-s5000-56-air": S5000_56_AIR,
    "mtt-s4000": S4000,
}
ALIASES = {
    **{name.removeprefix("mtt-"): name for name in DEVICES},
    "mtt-s5000-liquid": "mtt-s5000",
    "mtt-s5000-60": "mtt-s5000",
    "mtt-s5000-60-liquid": "mtt-s5000",
    "mtt-s5000-60-air": "mtt-s5000-air",
    "mtt-s5000-56-liquid": "mtt-s5000-56",
    "mtt-s5000-80gb": "mtt-s5000",
    "mtt-s5000-kuae": "mtt-s5000",
    "mtt-s4000-48gb": "mtt-s4000",
}


def _mesh(link: Link, mesh: Fact) -> Fabric:
    return Fabric(
        name=f"{link.name} mesh of 8",
        mesh=mesh,
        link=link,
        cards=said(8, "", "eight cards in a node"),
        hops=DIRECT,
        switch_latency=NO_SWITCH,
        reduction=no("a mesh has no switch that adds"),
    )


def _node(device: DeviceSpec) -> ClusterSpec:
    """Eight cards of KUAE2, each with its network card."""
    source = "KUAE2 in the prospectus: 10,240 ports of 400 Gb/s, RoCE v2 or InfiniBand"
    return ClusterSpec(
        name=f"node of eight {device.name}",
        device=device,
        cards=said(8, "", FIELD_TEST),
        node_cards=said(8, "", FIELD_TEST),
        tiers=(
            _mesh(MTLINK, yes(f"{FIELD_TEST}: two links between each of the 28 pairs")),
            roce(nic(400, source)),
        ),
        power=assumed(
            9.6e3, 5.0e3, 11e3, "W", "eight cards at 400 to 950 W, and 2 to 3 kW for the host"
        ),
    )


CLUSTERS = {
    **{name: _node(device) for name, device in DEVICES.items() if device is not S4000},
    "mtt-s4000": ClusterSpec(
        name="MCCX D800 of eight MTT S4000",
        device=S4000,
        cards=said(8, "", "Moore Threads MCCX D800 (io-tech.fi, 2023-12)"),
        node_cards=said(8, "", "Moore Threads MCCX D800 (io-tech.fi, 2023-12)"),
        tiers=(
            _mesh(MTLINK1, yes("as S5000's; not published", inferred=True)),
            roce(nic(200, "assumption: one card of 200 Gb/s for each", low=100, high=400)),
        ),
        power=assumed(5.6e3, 4.6e3, 6.5e3, "W", "eight cards at 450 W, and 1 to 3 kW for the host"),
    ),
}
