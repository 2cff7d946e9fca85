"""What processors say of themselves, on machines made up for the purpose and on this one."""

import os
from pathlib import Path

import psutil
import pytest
import torch

from pieria.hardware import cpu
from pieria.hardware.cpu import Cache, processor, threads
from tests.hardware.tree import MOUNTS, plant

CPUS = "sys/devices/system/cpu"


def siblings(*cores: str) -> dict[str, str]:
    """Topology files: each argument lists the logical processors of one core."""
    return {
        f"{CPUS}/cpu{number}/topology/core_cpus_list": f"{core}\n"
        for core in cores
        for number in core.split(",")
    }


def cache(number: int, index: int, level: int, kind: str, size: str, shared: str) -> dict[str, str]:
    folder = f"{CPUS}/cpu{number}/cache/index{index}"
    values = {"level": str(level), "type": kind, "size": size, "shared_cpu_list": shared}
    return {f"{folder}/{name}": f"{value}\n" for name, value in values.items()}


def status(allowed: str) -> dict[str, str]:
    return {"proc/self/status": f"Cpus_allowed_list:\t{allowed}\n"}


def test_x86(tmp_path: Path) -> None:
    info = (
        "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Xeon\nflags\t\t: fpu avx2 avx512f"
        " avx512_bf16 avx512_vnni fma\n\nprocessor\t: 1\nmodel name\t: other\n"
    )
    found = processor(plant(tmp_path, {"proc/cpuinfo": info}))
    assert (found.name, found.vendor) == ("Xeon", "Intel")
    assert found.instruction_sets == ("fma", "avx2", "avx512f", "avx512_vnni", "avx512_bf16")
    assert found.native_dtypes == {"float64", "float32", "bfloat16", "int8"}


def test_arm(tmp_path: Path) -> None:
    info = "processor : 0\nFeatures : fp asimd asimdhp asimddp sve\nCPU implementer : 0x41\n"
    found = processor(plant(tmp_path, {"proc/cpuinfo": info}))
    assert found.vendor == "Arm"
    assert found.name.endswith("processor")
    assert found.instruction_sets == ("asimd", "asimdhp", "asimddp", "sve")
    assert found.native_dtypes == {"float64", "float32", "float16", "int8"}


@pytest.mark.parametrize(
    ("allowed", "cores"), [("0-3", 2), ("0,2", 1), ("0-1", 2), ("3", 1), ("1-3", 2)]
)
def test_physical_cores_among_the_allowed(tmp_path: Path, allowed: str, cores: int) -> None:
    files = {f"{CPUS}/online": "0-3\n", **siblings("0,2", "1,3"), **status(allowed)}
    found = processor(plant(tmp_path, files))
    assert (found.cores, found.allowed_cores) == (2, cores)
    assert threads(found, {}).value == cores


def test_without_topology_each_processor_is_a_core(tmp_path: Path) -> None:
    assert processor(plant(tmp_path, {})).allowed_cores == 2


@pytest.mark.parametrize(
    ("inner", "outer", "quota", "count"),
    [
        ("max 100000", "max 100000", None, 4),
        ("150000 100000", "max 100000", 1.5, 1),
        ("400000 100000", "100000 50000", 2.0, 2),
        ("10000 100000", "max 100000", 0.1, 1),
    ],
)
def test_quota_of_version_2(
    tmp_path: Path, inner: str, outer: str, quota: float | None, count: int
) -> None:
    files = {
        f"{CPUS}/online": "0-3",
        **status("0-3"),
        "proc/self/cgroup": "0::/outer/inner\n",
        "sys/fs/cgroup/outer/inner/cpu.max": inner,
        "sys/fs/cgroup/outer/cpu.max": outer,
    }
    root = plant(tmp_path, files)
    found = processor(root)
    assert found.quota == quota
    assert threads(found, {}).value == count


@pytest.mark.parametrize(("limit", "quota"), [("-1", None), ("50000", 0.5)])
def test_quota_of_version_1(tmp_path: Path, limit: str, quota: float | None) -> None:
    files = {
        "proc/self/cgroup": "4:cpu:/\n",
        "proc/self/mountinfo": MOUNTS[1].format(shown="/", name="cpu"),
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": limit,
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
    }
    assert processor(plant(tmp_path, files)).quota == quota


@pytest.mark.parametrize(
    ("setting", "count", "source"),
    [
        ("1", 1, "OMP_NUM_THREADS"),
        ("1,4", 1, "OMP_NUM_THREADS"),
        ("64", 2, "physical cores it may run on"),
        ("", 2, "physical cores it may run on"),
        ("many", 2, "physical cores it may run on"),
    ],
)
def test_threads_follow_a_lower_setting_of_torchs_own(
    tmp_path: Path, setting: str, count: int, source: str
) -> None:
    found = threads(processor(plant(tmp_path, {})), {"OMP_NUM_THREADS": setting})
    assert (found.value, found.source) == (count, source)


def test_caches_are_counted_once_for_all_that_share_them(tmp_path: Path) -> None:
    files = {f"{CPUS}/online": "0-2", **status("0-1")}
    for number in range(3):
        files |= cache(number, 0, 1, "Data", "48K", str(number))
        files |= cache(number, 3, 3, "Unified", "1024K", "0-1" if number < 2 else "2")
    root = plant(tmp_path, files)
    found = processor(root)
    assert found.caches == (Cache(1, "data", 48 * 1024, 2), Cache(3, "unified", 2**20, 1))
    assert [str(c) for c in found.caches] == ["L1 data 2 x 48 KiB", "L3 unified 1 x 1024 KiB"]
    (device,) = cpu.present(root)
    assert device.spec.cache is not None
    assert device.spec.cache.value == 2**20


def test_the_device_on_a_plain_machine(tmp_path: Path) -> None:
    (device,) = cpu.present(plant(tmp_path, {}))
    assert (device.name, device.torch_device, device.distributed) == ("cpu", "cpu", "gloo")
    assert (device.spec.name, device.spec.vendor) == ("EPYC", "AMD")
    assert device.spec.memory.value == 8 * 2**30
    assert device.spec.cache is None
    facts = dict(device.facts)
    assert facts["cores"] == "2 physical; 2 allowed, no quota"
    assert facts["instruction sets"] == "avx"
    assert facts["torch's kernels"] == torch.backends.cpu.get_cpu_capability()


def test_this_machine() -> None:
    found = processor()
    assert set(found.allowed) == os.sched_getaffinity(0)
    assert found.cores == psutil.cpu_count(logical=False)
    assert 1 <= threads(found).value <= found.allowed_cores <= found.cores
