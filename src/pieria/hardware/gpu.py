"""What GPUs of every vendor have in common in torch: the properties it reports of them.

Knows no vendor; their own files do.
"""

from collections.abc import Callable
from typing import Any

from pieria.hardware.spec import Device, DeviceSpec, Quantity

NOT_RUN = "not run on hardware by this project"
"""The state of a device that was only written for, from documents and without one at hand."""


def gpu(
    kind: str,
    index: int,
    properties: Any,
    vendor: str,
    native_dtypes: frozenset[str],
    distributed: str,
) -> Device:
    """One GPU. kind: torch's device type; properties: what torch reports of number `index`."""
    cache = getattr(properties, "L2_cache_size", 0)
    spec = DeviceSpec(
        name=properties.name,
        vendor=vendor,
        memory=Quantity(properties.total_memory, "B", "torch's device properties"),
        native_dtypes=native_dtypes,
        cache=Quantity(cache, "B", "torch's device properties") if cache else None,
    )
    facts = (
        ("compute capability", f"{properties.major}.{properties.minor}"),
        ("multiprocessors", str(properties.multi_processor_count)),
    )
    name = f"{kind}:{index}"
    return Device(name, name, spec, ("torch",), distributed, NOT_RUN, facts)


def peak_of(module: Any, index: int, work: Callable[[], object]) -> int:
    """The most bytes of tensors that `work` has at once beside what is there.

    module: torch's for that kind of device, which counts them.
    """
    module.synchronize(index)
    before = module.memory_allocated(index)
    module.reset_peak_memory_stats(index)
    work()
    module.synchronize(index)
    return max(0, int(module.max_memory_allocated(index)) - int(before))
