"""Utilisation of a device by operator, dtype and shape: roofline time / measured time.

Knows measured tables and the devices that they were made on. A device without tables of its own is
given those of an H100, times what its spec says of its utilisation; `notes` say so. Does not know
models.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import log2
from typing import Any

import numpy as np

from pieria.hardware import catalog
from pieria.hardware.spec import DeviceSpec
from pieria.plan.routing import Routing
from pieria.plan.tables import Array, Grid, Table, load

SYSTEMS = {"h100": "h100_sxm", "h200": "h200_sxm"}
"""Devices whose operators were measured -> the file."""
REFERENCE = "h100"
"""Whose utilisation other devices are given."""

GEMM = {"fp8": "fp8", "fp8_block": "fp8_block", "int8": "fp8", "nvfp4": "fp8"}
"""Precision -> the gemm table that is like it; bfloat16 for all others."""
MOE = {
    "fp8": "fp8",
    "fp8_block": "fp8_block",
    "int8": "fp8",
    "int4": "int4_wo",
    "int4_experts": "int4_wo",
    "mxfp4": "w4a16_mxfp4",
    "nvfp4": "fp8",
}
WEIGHT_BYTES = {"bfloat16": 2.0, "fp8": 1.0, "fp8_block": 1.0, "int4_wo": 0.5, "w4a16_mxfp4": 0.53}
"""Of the tables' dtypes."""
PEAKS = {"fp8": "float8_e4m3fn", "fp8_block": "float8_e4m3fn"}
"""Of the tables' dtypes; bfloat16's for all others."""


@dataclass(frozen=True)
class Roof:
    """The least time that a device allows."""

    device: DeviceSpec

    def seconds(self, flops: Any, size: Any, dtype: str) -> Any:
        return np.maximum(flops / self.peak(dtype), size / self.bandwidth)

    @property
    def bandwidth(self) -> float:
        assert self.device.bandwidth is not None
        return self.device.bandwidth.value

    def peak(self, dtype: str) -> float:
        """Of the dtype, or of the widest in which it can be multiplied."""
        for name in (dtype, "bfloat16", "float16", "float32"):
            found = self.device.peak(name)
            if found is not None:
                return found.value
        raise ValueError(f"{self.device.name} states no peak for {dtype} or wider")


@dataclass
class Surfaces:
    """What `device` reaches. notes: what was not measured, and what stands in for it."""

    device: DeviceSpec
    notes: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = {catalog.device(name).name: name for name in SYSTEMS}
        self.like = known.get(self.device.name, REFERENCE)
        self.is_measured = self.device.name in known
        self.roof = Roof(catalog.device(self.like))
        self.tables = load(SYSTEMS[self.like])
        self._made: dict[Any, Grid] = {}
        self._measured = self if self.is_measured else Surfaces(self.roof.device)
        stated = self.device.utilisation
        self._share = 1.0 if stated is None else stated.value
        if stated is not None:
            self.note(f"share of the roofline, over that on {self.roof.device.name}: {stated}")

    def _table(self, name: str) -> tuple[Table, Roof]:
        """And the least times of the device it was measured on: the reference, if no other."""
        if name in self.tables:
            return self.tables[name], self.roof
        return load(SYSTEMS[REFERENCE])[name], Roof(catalog.device(REFERENCE))

    def note(self, text: str) -> None:
        self.notes[text] = self.notes.get(text, 0) + 1

    def product(self, precision: str) -> Grid:
        """Over rows, outer and inner."""
        dtype = GEMM.get(precision, "bfloat16")

        def make() -> Grid:
            table = self.tables["gemm"]
            m, n, k = np.meshgrid(*table.axes, indexing="ij")
            width = WEIGHT_BYTES[dtype]
            size = width * n * k + 2.0 * m * (n + k)
            roof = self.roof.seconds(2.0 * m * n * k, size, PEAKS.get(dtype, "bfloat16"))
            return self._carried(table, roof / table.seconds[table.keys.index((dtype,))])

        return self._once(("product", dtype), make)

    def attention(
        self, phase: str, heads: int, groups: int, size: int, window: int, kv_bytes: int
    ) -> Grid:
        """Over requests and context; phase: "context" or "generation"."""
        table, least = self._table(f"{phase}_attention")
        cache = "fp8" if kv_bytes == 1 else "bfloat16"
        wanted = (heads, groups, size, window if window == 128 else 0)
        keys = [k for k in table.keys if k[4] == cache]
        key = _nearest(keys, wanted, weights=(1.0, 1.0, 1.0, 100.0))
        if (found := tuple(int(part) for part in key[:4])) != wanted:
            self.note(f"{phase} attention {wanted} (heads, key heads, size, window): as {found}")

        def make() -> Grid:
            h, g, d, w = found
            requests, context = np.meshgrid(*table.axes, indexing="ij")
            seen = np.minimum(context, w) if w else context
            if phase == "context":
                pairs = np.where(
                    seen < context,
                    seen * context - seen * (seen - 1) / 2,
                    context * (context + 1) / 2,
                )
                queries, read = requests * context, requests * context
            else:
                pairs, queries, read = seen, requests, requests * seen
            flops = 4.0 * h * d * requests * pairs
            moved = 2.0 * g * d * read * kv_bytes + 4.0 * h * d * queries
            roof = least.seconds(flops, moved, "bfloat16")
            return self._carried(table, roof / table.seconds[table.keys.index(key)])

        return self._once((phase, key), make)

    def experts(
        self, precision: str, routing: Routing, sizes: tuple[int, int, int, int, int]
    ) -> tuple[Grid, float]:
        """Over tokens, and what to multiply those of another model by before looking there.

        sizes: hidden, features here, experts of a token, experts here, experts in all.
        """
        hidden, size, top, here, total = sizes
        table = self.tables["moe"]
        dtype = MOE.get(precision, "bfloat16")
        fall = "balanced" if routing.exponent is None else "power_law_1.2"
        keys = [k for k in table.keys if k[6:] == (dtype, fall)]
        if not keys:
            self.note(f"experts in {dtype}: as in bfloat16")
            dtype = "bfloat16"
            keys = [k for k in table.keys if k[6:] == (dtype, fall)]

        def local(key: tuple[str, ...]) -> tuple[int, int, int, int, int]:
            d, f, a, e, tp, ep = (int(part) for part in key[:6])
            return d, f // tp, a, e // ep, e

        key = min(keys, key=lambda k: _distance(local(k), sizes))
        if (found := local(key)) != sizes:
            self.note(f"experts {sizes} (hidden, size, top, here, total): as {found}")

        def make() -> Grid:
            d, f, a, e, all_ = found
            (tokens,) = table.axes
            flops, moved = experts_cost(tokens, found, WEIGHT_BYTES[dtype], 2.0, routing)
            roof = self.roof.seconds(flops, moved, PEAKS.get(dtype, "bfloat16"))
            return self._carried(table, roof / table.seconds[table.keys.index(key)])

        return self._once(("moe", key), make), (top / total) / (found[2] / found[4])

    def latents(self, phase: str, heads: int, precision: str, kv_bytes: int) -> Grid:
        """Over requests and context; phase: "context", with keys expanded, or "generation".

        Measured was all of DeepSeek-V3's mixer; what its products and small kernels take by
        themselves is taken off, and a tenth of it left at least.
        """
        table = self.tables[f"mla_{phase}"]
        dtype = "fp8_block" if precision.startswith("fp8") else "bfloat16"
        cache = "fp8" if kv_bytes == 1 else "bfloat16"
        keys = [k for k in table.keys if k[1:] == (dtype, cache)]
        key = _nearest(keys, (heads,), (1.0,))
        if int(key[0]) != heads:
            self.note(f"{phase} latent attention of {heads} heads: as of {key[0]}")

        def make() -> Grid:
            h = int(key[0])
            requests, context = np.meshgrid(*table.axes, indexing="ij")
            tokens = requests * context if phase == "context" else requests
            measured = table.seconds[table.keys.index(key)]
            rest = np.maximum(measured - self._around_latents(tokens, h, dtype), 0.1 * measured)
            if phase == "context":
                flops, moved = expanded_cost(requests * context * (context + 1) / 2, tokens, h)
            else:
                flops = 2.0 * h * (576 + 512) * requests * context
                moved = 576.0 * kv_bytes * requests * context + 2.0 * h * (576 + 512) * requests
            return self._carried(table, self.roof.seconds(flops, moved, "bfloat16") / rest)

        return self._once((f"mla_{phase}", key), make)

    def _around_latents(self, tokens: Array, heads: int, precision: str) -> Array:
        """Seconds of what else DeepSeek-V3's mixer does on the device it was measured on."""
        total = np.zeros_like(tokens)
        for inner, outer, weight in (
            (7168, 1536 + 576, precision),
            (1536, heads * 192, precision),
            (128, heads * 512, "bfloat16"),
            (512, heads * 128, "bfloat16"),
            (heads * 128, 7168, precision),
        ):
            dtype = GEMM.get(weight, "bfloat16")
            size = WEIGHT_BYTES[dtype] * inner * outer + 2.0 * tokens * (inner + outer)
            roof = self.roof.seconds(
                2.0 * tokens * inner * outer, size, PEAKS.get(dtype, "bfloat16")
            )
            total = total + roof / self._measured.product(weight)(tokens, outer, inner)
        for width in (2 * 1536, 2 * 512, 2 * (heads * 64 + 64), 2 * 576):
            total = total + stream_seconds(2.0 * tokens * width, self.roof.bandwidth)
        return total

    def _carried(self, table: Table, reached: Array) -> Grid:
        """This device's, from what was reached where the table was made: at most the roof."""
        return Grid(table.axes, np.minimum(reached * self._share, np.maximum(reached, 1.0)))

    def _once(self, key: Any, make: Callable[[], Grid]) -> Grid:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


def experts_cost(
    tokens: Any,
    sizes: tuple[int, int, int, int, int],
    weight_bytes: float,
    width: float,
    routing: Routing,
) -> tuple[Any, Any]:
    """(flops, bytes) of gated networks on an average rank. sizes: as `Surfaces.experts` has them.

    width: bytes of a number that layers hand on.
    """
    hidden, size, top, here, total = sizes
    pairs = tokens * (top * here / total)
    used = routing.touched(tokens, top, here, total)
    each = 3.0 * hidden * size
    return 2.0 * pairs * each, used * each * weight_bytes + 2.0 * width * hidden * pairs


def expanded_cost(pairs: Any, tokens: Any, heads: int) -> tuple[Any, Any]:
    """(flops, bytes) of attention over each head's own keys of 192 and values of 128 numbers."""
    return 2.0 * heads * (192 + 128) * pairs, 2.0 * heads * (2 * 192 + 2 * 128) * tokens


def stream_seconds(size: Any, bandwidth: float) -> Any:
    """Of a kernel that only moves bytes: aiconfigurator's rule, 0.8 of the bandwidth and 3 us."""
    return 3e-6 + size / (0.8 * bandwidth)


def _nearest(
    keys: Sequence[tuple[str, ...]], wanted: Sequence[float], weights: Sequence[float]
) -> tuple[str, ...]:
    """The key whose first numbers are closest in logarithms."""
    return min(
        keys, key=lambda k: _distance([int(part) for part in k[: len(wanted)]], wanted, weights)
    )


def _distance(
    found: Sequence[float], wanted: Sequence[float], weights: Sequence[float] | None = None
) -> float:
    return sum(
        weight * abs(log2(one + 1) - log2(other + 1))
        for one, other, weight in zip(found, wanted, weights or [1.0] * len(wanted), strict=True)
    )
