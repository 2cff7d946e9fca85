"""How fast a device at hand is, through torch: the limits that a share of is reported elsewhere.

Knows torch and a clock. What it finds are rates that torch reaches, not what the hardware could
do at best: a kernel of our own may well exceed them.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from pieria.clock import Clock
from pieria.hardware import cpu
from pieria.hardware.devices import free_memory
from pieria.hardware.spec import Device, DeviceSpec, Quantity

SMALLEST_ARRAY = 256 * 2**20
CACHES = 4
"""An array of this many times the last-level cache leaves it little to keep."""
REPEATS = 3
PEAK_SECONDS = 0.3
"""How long one dtype may take."""
PEAK_SIZES = (256, 512, 1024, 2048, 4096, 8192, 16384)
DTYPES = ("float64", "float32", "bfloat16", "float16", "int8")


def measure(device: Device, clock: Clock) -> DeviceSpec:
    """The device's spec with bandwidth and flops as measured now; takes about three seconds.

    bandwidth: bytes/s of reading a float32 matrix once, the best of several products with a vector
    and sums. The matrix is 256 MiB or four times the last-level cache, whichever is more, but at
    most a quarter of the free memory. A virtual machine's cache may be shared with others, so that
    what is read may come from memory even sooner.

    flops: operations/s of the best of several square matrix products, of growing size as time
    allows. int8 is multiplied into int32. Dtypes that torch cannot multiply there are left out.

    On the CPU with as many threads as `cpu.threads` says; where other processes keep the cores
    busy, what is found is what they leave.
    """
    before = torch.get_num_threads()
    if device.torch_device == "cpu":
        cpu.use_threads(int(cpu.threads(cpu.processor()).value))
    try:
        bandwidth = _bandwidth(device, clock)
        flops = {dtype: peak for dtype in DTYPES if (peak := _peak(device, clock, dtype))}
    finally:
        cpu.use_threads(before)
    return replace(device.spec, bandwidth=bandwidth, flops=flops)


def array_bytes(cache: int, free: int) -> int:
    """The size of the array whose reading is timed."""
    return min(max(SMALLEST_ARRAY, CACHES * cache), free // 4)


def _bandwidth(device: Device, clock: Clock) -> Quantity:
    cache = device.spec.cache
    count = array_bytes(int(cache.value) if cache else 0, int(free_memory(device).value))
    # Filled, not zeroed: pages of untouched zeros are all one page.
    matrix = torch.ones(count // 4 // 4096, 4096, dtype=torch.float32, device=device.torch_device)
    vector = torch.ones(4096, dtype=torch.float32, device=device.torch_device)
    seconds = min(
        _seconds(device, clock, lambda: torch.mv(matrix, vector)),
        _seconds(device, clock, lambda: matrix.sum()),
    )
    source = f"measured here, reading {Quantity(matrix.nbytes, 'B', 'size')}"
    return Quantity(matrix.nbytes / seconds, "B/s", source)


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


def _seconds(device: Device, clock: Clock, call: Callable[[], Tensor]) -> float:
    """The shortest of several runs, after one that does not count."""
    times = []
    for _ in range(REPEATS + 1):
        start = clock.now()
        call()
        if device.torch_device != "cpu":
            torch.accelerator.synchronize()
        times.append(clock.now() - start)
    return min(times[1:])
