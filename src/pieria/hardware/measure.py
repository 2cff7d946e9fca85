"""How fast a device at hand is: the limits that a share of is reported elsewhere.

Knows torch and a clock. Products are torch's, so that a kernel of our own may exceed their rate;
memory is also read by what the caller gives for it.
"""

import mmap
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from pieria.clock import Clock
from pieria.hardware import cpu
from pieria.hardware.devices import free_memory
from pieria.hardware.spec import Device, DeviceSpec, Quantity

SMALLEST_ARRAY = 512 * 2**20
CACHES = 4
"""An array of this many times the last-level cache leaves it little to keep."""
REPEATS = 3
PEAK_SECONDS = 0.3
"""How long one dtype may take."""
PEAK_SIZES = (256, 512, 1024, 2048, 4096, 8192, 16384)
DTYPES = ("float64", "float32", "bfloat16", "float16", "int8")

Read = Callable[[Tensor, int], object]
"""Reads a tensor once, with this many streams a core."""

STREAMS = (1, 2, 4, 8, 16)


def measure(device: Device, clock: Clock, read: Read | None = None) -> DeviceSpec:
    """The device's spec with bandwidth and flops as measured now; takes about four seconds.

    bandwidth: bytes/s of reading an array once, the best of several products with a vector, sums,
    and `read` with 1 to 16 streams a core; on the CPU from small pages and from huge ones. The
    array is 512 MiB or four times the last-level cache, whichever is more, but at most a quarter of
    the free memory. A virtual machine's cache may be shared with others, so that what is read may
    come from memory even sooner.

    flops: operations/s of the best of several square matrix products, of growing size as time
    allows. int8 is multiplied into int32. Dtypes that torch cannot multiply there are left out.

    On the CPU with as many threads as `cpu.threads` says; where other processes keep the cores
    busy, what is found is what they leave.
    """
    before = torch.get_num_threads()
    if device.torch_device == "cpu":
        cpu.use_threads(int(cpu.threads(cpu.processor()).value))
    try:
        bandwidth = _bandwidth(device, clock, read)
        flops = {dtype: peak for dtype in DTYPES if (peak := _peak(device, clock, dtype))}
    finally:
        cpu.use_threads(before)
    return replace(device.spec, bandwidth=bandwidth, flops=flops)


def array_bytes(cache: int, free: int) -> int:
    """The size of the array whose reading is timed."""
    return min(max(SMALLEST_ARRAY, CACHES * cache), free // 4)


def _bandwidth(device: Device, clock: Clock, read: Read | None) -> Quantity:
    cache = device.spec.cache
    count = array_bytes(int(cache.value) if cache else 0, int(free_memory(device).value))
    vector = torch.ones(4096, dtype=torch.float32, device=device.torch_device)
    best = Quantity(0.0, "B/s", "nothing was read")
    for pages, matrix in _matrices(device, count // 4 // 4096):
        ways: dict[str, Callable[[], object]] = {
            "by a product with a vector": partial(torch.mv, matrix, vector),
            "by a sum": matrix.sum,
        }
        if read is not None:
            ways |= {f"in {n} streams a core": partial(read, matrix, n) for n in STREAMS}
        for way, call in ways.items():
            rate = matrix.nbytes / _seconds(device, clock, call)
            if rate > best.value:
                size = Quantity(matrix.nbytes, "B", "size")
                best = Quantity(rate, "B/s", f"measured here, reading {size} {way}{pages}")
    return best


def _matrices(device: Device, rows: int) -> Iterator[tuple[str, Tensor]]:
    """Float32 [rows, 4096], in each kind of pages that can be had, one at a time.

    Filled, not zeroed: pages of untouched zeros are all one page.
    """
    if device.torch_device != "cpu" or not hasattr(mmap, "MADV_HUGEPAGE"):
        yield "", torch.ones(rows, 4096, dtype=torch.float32, device=device.torch_device)
        return
    for pages, advice in ((", small pages", "NOHUGEPAGE"), (", huge pages", "HUGEPAGE")):
        memory = mmap.mmap(-1, rows * 4096 * 4, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        try:
            memory.madvise(getattr(mmap, f"MADV_{advice}"))
        except OSError:
            # This kernel has small pages alone.
            if advice == "HUGEPAGE":
                return
        yield pages, torch.frombuffer(memory, dtype=torch.float32).view(rows, 4096).fill_(1)


def _peak(device: Device, clock: Clock, dtype: str) -> Quantity | None:
    """None if torch cannot multiply this dtype on this device."""
    start, seconds, best, best_size = clock.now(), 0.0, 0.0, 0
    tile = torch.randn(PEAK_SIZES[0], PEAK_SIZES[0]).to(getattr(torch, dtype))
    multiply = _multiply_int8 if dtype == "int8" else _multiply
    for size in PEAK_SIZES:
        # Twice the size takes eight times as long, and is run once more than it is timed.
        if best and clock.now() - start + 8 * seconds * (REPEATS + 1) > PEAK_SECONDS:
            break
        x = tile.to(device.torch_device).repeat(size // len(tile), size // len(tile))
        try:
            seconds = _seconds(device, clock, partial(multiply, x))
        except RuntimeError:
            return None
        rate = 2 * size**3 / seconds
        if rate > best:
            best, best_size = rate, size
    unit = "OP/s" if dtype == "int8" else "FLOP/s"
    return Quantity(best, unit, f"measured here, {best_size} x {best_size} matrices")


def _multiply(x: Tensor) -> Tensor:
    return x @ x


def _multiply_int8(x: Tensor) -> Tensor:
    # torch's only product of int8 matrices; it is not in the documented interface.
    return torch._int_mm(x, x)


def _seconds(device: Device, clock: Clock, call: Callable[[], object]) -> float:
    """The shortest of several runs, after one that does not count."""
    times = []
    for _ in range(REPEATS + 1):
        start = clock.now()
        call()
        if device.torch_device != "cpu":
            torch.accelerator.synchronize()
        times.append(clock.now() - start)
    return min(times[1:])
