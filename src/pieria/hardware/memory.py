"""How much more host memory this process may use: the least of several limits, with their sources.

Knows Linux's accounting. Does not know what the memory is for.
"""

import ctypes
import logging
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from pieria.hardware.linux import ROOT, ControlGroup, control_groups, number_list, read, status
from pieria.hardware.spec import Quantity

UNLIMITED = 2**60
"""From here on, a limit of a version 1 control group means that there is none."""
POPULATE_WRITE = 23
"""MADV_POPULATE_WRITE, for which Python has no name: of madvise(2), since Linux 5.14."""
PIECE_BYTES = 2 << 20
"""What is taken at a time: a large page, for which a system needs up to some milliseconds."""

log = logging.getLogger("pieria.hardware.memory")


def total(root: Path = ROOT) -> Quantity:
    """The machine's memory in bytes."""
    return Quantity(_meminfo(root)["MemTotal"], "B", "MemTotal in /proc/meminfo")


def available(root: Path = ROOT) -> Quantity:
    """Bytes that this process may still use: the least of `limits`."""
    return min(limits(root), key=lambda limit: limit.value)


def limits(root: Path = ROOT) -> list[Quantity]:
    """All that bounds the bytes which this process may still use.

    The machine's MemAvailable; of every control group with a limit, what is left of it; and, where
    the process may not use every NUMA node, what is free on those it may. In groups and nodes, file
    pages not used lately count as free, since the kernel drops them first.
    """
    found = [Quantity(_meminfo(root)["MemAvailable"], "B", "MemAvailable in /proc/meminfo")]
    for group in control_groups("memory", root):
        left = _left(group)
        if left is not None:
            folder = f"/{group.folder.relative_to(root)}"
            found.append(Quantity(left, "B", f"what is left of the limit of {folder}"))
    nodes = _nodes(root)
    return found if nodes is None else [*found, nodes]


def zeros(size: int) -> torch.Tensor:
    """So many bytes of zeros, uint8 [size], which take memory once they are written to.

    In large pages where the system has them: reading is up to a quarter faster, as fewer addresses
    have to be looked up.
    """
    if size == 0:
        return torch.empty(0, dtype=torch.uint8)
    options = (
        {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    )
    memory = mmap.mmap(-1, size, **options)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)


def taken(arrays: Sequence[torch.Tensor]) -> Iterator[None]:
    """Make what `zeros` gave take its memory now, a piece of each array in turn at every step.

    Values stay as they are, also what is being written meanwhile. Where the system does not offer
    this the log says so once, and they take memory as they are written to.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    longest = max((array.nbytes for array in arrays), default=0)
    for start in range(0, longest, PIECE_BYTES):
        for array in arrays:
            size = min(PIECE_BYTES, array.nbytes - start)
            if size <= 0:
                continue
            address = ctypes.c_void_p(array.data_ptr() + start)
            if libc.madvise(address, ctypes.c_size_t(size), POPULATE_WRITE):
                reason = os.strerror(ctypes.get_errno())
                log.info("memory is taken as it is written to, since not before: %s", reason)
                return
            yield


def resident(root: Path = ROOT) -> int:
    """Bytes of memory that this process has now; of what it shares, too."""
    return int((root / "proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def peak(work: Callable[[], object], root: Path = ROOT) -> int | None:
    """The most bytes that this process had at once while `work` ran, beyond what it had before.

    None where the system does not let it begin to count anew.
    """
    proc = root / "proc/self"
    try:
        (proc / "clear_refs").write_text("5")  # of proc(5): the peak is what there is now
    except OSError:
        return None
    before = resident(root)
    work()
    most = status(root, "VmHWM")
    return None if most is None else max(0, int(most.split()[0]) * 1024 - before)


def trim() -> None:
    """Give the system back what was freed, where the C library can; it keeps that for itself."""
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if give_back is not None:
        give_back(0)


def _left(group: ControlGroup) -> int | None:
    """Bytes that may still be used in this group; None if it has no limit."""
    if group.version == 2:
        # Above memory.high processes are slowed down until they shrink: to be kept out of, too.
        ceilings = [read(group.folder, "memory.max"), read(group.folder, "memory.high")]
        usage, reclaimable = read(group.folder, "memory.current"), "inactive_file"
    else:
        ceilings = [read(group.folder, "memory.limit_in_bytes")]
        usage, reclaimable = read(group.folder, "memory.usage_in_bytes"), "total_inactive_file"
    bounds = [int(c) for c in ceilings if c is not None and c != "max" and int(c) < UNLIMITED]
    if not bounds or usage is None:
        return None
    statistics = dict(
        line.split() for line in (read(group.folder, "memory.stat") or "").splitlines()
    )
    used = max(0, int(usage) - int(statistics.get(reclaimable, 0)))
    return max(0, min(bounds) - used)


def _nodes(root: Path) -> Quantity | None:
    """Bytes free on the NUMA nodes that this process may use; None if it may use them all."""
    system = root / "sys/devices/system/node"
    allowed, present = status(root, "Mems_allowed_list"), read(system, "has_memory")
    if allowed is None or present is None or number_list(allowed) >= number_list(present):
        return None
    nodes = sorted(number_list(allowed) & number_list(present))
    free = 0
    for node in nodes:
        info = _bytes_by_name((system / f"node{node}/meminfo").read_text())
        free += sum(info.get(key, 0) for key in ("MemFree", "Inactive(file)", "SReclaimable"))
    return Quantity(free, "B", f"free on the NUMA nodes it may use: {', '.join(map(str, nodes))}")


def _meminfo(root: Path) -> dict[str, int]:
    return _bytes_by_name((root / "proc/meminfo").read_text())


def _bytes_by_name(text: str) -> dict[str, int]:
    """From lines such as "MemFree: 12 kB" or "Node 0 MemFree: 12 kB"."""
    table = {}
    for line in text.splitlines():
        name, _, amount = line.partition(":")
        if amount.endswith("kB"):
            table[name.split()[-1]] = int(amount.split()[0]) * 1024
    return table
