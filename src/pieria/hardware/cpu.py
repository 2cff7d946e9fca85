"""The processor of this machine: what it is, and how much of it this process may use.

Knows Linux's /proc and /sys on x86-64 and Arm. Does not know how fast anything is.
"""

import os
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from pieria.hardware import memory
from pieria.hardware.linux import ROOT, control_groups, number_list, read, status
from pieria.hardware.spec import Device, DeviceSpec, Quantity

INSTRUCTION_SETS = (
    *("sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni"),
    *("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16", "amx_fp16"),
    *("asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2", "sme"),
)
"""Those that matter to kernels, by the names /proc/cpuinfo gives them."""

NATIVE = {
    "bfloat16": {"avx512_bf16", "amx_bf16", "bf16"},
    "float16": {"avx512_fp16", "amx_fp16", "asimdhp"},
    "int8": {"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"},
}
"""A dtype has arithmetic of its own where the processor has one of these."""

VENDORS = {"GenuineIntel": "Intel", "AuthenticAMD": "AMD", "0x41": "Arm"}


@dataclass(frozen=True)
class Cache:
    """One level. size: bytes of one instance; instances: how many serve this process's cores."""

    level: int
    kind: str
    size: int
    instances: int

    def __str__(self) -> str:
        return f"L{self.level} {self.kind} {self.instances} x {self.size >> 10} KiB"


@dataclass(frozen=True)
class Processor:
    """allowed: logical processors that the process may run on; allowed_cores: physical ones.

    quota: processor-seconds per second that its control groups grant; None: no limit.
    """

    name: str
    vendor: str
    instruction_sets: tuple[str, ...]
    cores: int
    allowed: tuple[int, ...]
    allowed_cores: int
    quota: float | None
    caches: tuple[Cache, ...]

    @property
    def native_dtypes(self) -> frozenset[str]:
        have = set(self.instruction_sets)
        return frozenset(
            {"float64", "float32"} | {d for d, any_of in NATIVE.items() if any_of & have}
        )


def processor(root: Path = ROOT) -> Processor:
    """What /proc and /sys under `root` say."""
    info = _cpuinfo(root)
    flags = set((info.get("flags") or info.get("Features") or "").split())
    vendor = info.get("vendor_id") or info.get("CPU implementer") or "unknown"
    every = sorted(number_list(read(root, "sys/devices/system/cpu/online") or "0"))
    allowed = sorted(number_list(status(root, "Cpus_allowed_list") or "")) or every
    return Processor(
        name=info.get("model name", f"{platform.machine()} processor"),
        vendor=VENDORS.get(vendor, vendor),
        instruction_sets=tuple(name for name in INSTRUCTION_SETS if name in flags),
        cores=_cores(root, every),
        allowed=tuple(allowed),
        allowed_cores=_cores(root, allowed),
        quota=_quota(root),
        caches=_caches(root, allowed),
    )


def threads(processor: Processor, environment: Mapping[str, str] = os.environ) -> Quantity:
    """How many compute threads to run: one per physical core, within affinity and quota.

    OMP_NUM_THREADS, which torch's own libraries read, wins where it is lower.
    """
    bounds = [Quantity(processor.allowed_cores, "threads", "physical cores it may run on")]
    if processor.quota is not None:
        granted = max(1, int(processor.quota))
        bounds.append(Quantity(granted, "threads", "quota of its control groups"))
    asked = environment.get("OMP_NUM_THREADS", "").split(",")[0]
    if asked.isdigit() and int(asked) > 0:
        bounds.append(Quantity(int(asked), "threads", "OMP_NUM_THREADS"))
    return min(bounds, key=lambda bound: bound.value)


def use_threads(count: int) -> None:
    """Let torch compute with this many threads, in the whole process."""
    torch.set_num_threads(count)


@contextmanager
def threads_within(count: int) -> Iterator[None]:
    """The same, until the `with` block ends."""
    before = torch.get_num_threads()
    use_threads(count)
    try:
        yield
    finally:
        use_threads(before)


def present(root: Path = ROOT) -> list[Device]:
    """The one processor."""
    found = processor(root)
    team = threads(found)
    cache = [c for c in found.caches if c.level == max(x.level for x in found.caches)]
    size = sum(c.size * c.instances for c in cache)
    spec = DeviceSpec(
        name=found.name,
        vendor=found.vendor,
        memory=memory.total(root),
        native_dtypes=found.native_dtypes,
        cache=Quantity(size, "B", "/sys/devices/system/cpu") if cache else None,
    )
    quota = "no quota" if found.quota is None else f"a quota of {found.quota:g}"
    facts = (
        ("cores", f"{found.cores} physical; {found.allowed_cores} allowed, {quota}"),
        ("threads", f"{team}: {team.source}"),
        ("instruction sets", " ".join(found.instruction_sets)),
        ("torch's kernels", torch.backends.cpu.get_cpu_capability()),
        ("caches", ", ".join(map(str, found.caches))),
    )
    state = "the tests of this project run on it"
    return [Device("cpu", "cpu", spec, ("cpu", "torch"), "gloo", state, facts)]


def free_memory(index: int) -> Quantity:
    """Bytes that this process may still use."""
    return memory.available()


def program(index: int) -> int:
    """Bytes that this process has now."""
    return memory.resident()


def peak(index: int, work: Callable[[], object]) -> int | None:
    """The most bytes that `work` has at once beside what is there; None if that is not told."""
    return memory.peak(work)


def _cpuinfo(root: Path) -> dict[str, str]:
    """The entries of the first processor; later ones only fill gaps."""
    entries: dict[str, str] = {}
    for line in (root / "proc/cpuinfo").read_text().splitlines():
        name, colon, value = line.partition(":")
        if colon:
            entries.setdefault(name.strip(), value.strip())
    return entries


def _cores(root: Path, processors: list[int]) -> int:
    """Physical cores among these; a processor without a stated sibling is a core of its own."""
    siblings = set()
    for number in processors:
        topology = root / f"sys/devices/system/cpu/cpu{number}/topology"
        shared = read(topology, "core_cpus_list") or read(topology, "thread_siblings_list")
        siblings.add(number_list(shared or str(number)))
    return len(siblings)


def _quota(root: Path) -> float | None:
    """The least of the control groups' quotas."""
    quotas = []
    for group in control_groups("cpu", root):
        if group.version == 2:
            limit, period = (read(group.folder, "cpu.max") or "max 100000").split()
        else:
            limit = read(group.folder, "cpu.cfs_quota_us") or "-1"
            period = read(group.folder, "cpu.cfs_period_us") or "100000"
        if limit not in ("max", "-1"):
            quotas.append(int(limit) / int(period))
    return min(quotas, default=None)


def _caches(root: Path, processors: list[int]) -> tuple[Cache, ...]:
    """Caches of these processors, inner levels first."""
    instances: dict[tuple[int, str, int], set[frozenset[int]]] = {}
    for number in processors:
        for index in sorted((root / f"sys/devices/system/cpu/cpu{number}/cache").glob("index*")):
            level, kind, size = (read(index, name) for name in ("level", "type", "size"))
            if level and kind and size:
                key = int(level), kind.lower(), int(size.removesuffix("K")) * 1024
                shared = number_list(read(index, "shared_cpu_list") or str(number))
                instances.setdefault(key, set()).add(shared)
    return tuple(Cache(*key, len(shared)) for key, shared in sorted(instances.items()))
