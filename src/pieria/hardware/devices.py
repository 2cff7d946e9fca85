"""The devices at hand, and how a user's word for one becomes it.

Knows which kinds there are; each kind's own file knows the rest.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import Protocol

import torch

from pieria.hardware import cpu, cuda, memory, musa
from pieria.hardware.spec import Device, DeviceSpec, Quantity

__all__ = [
    "Device",
    "describe",
    "find",
    "free_memory",
    "peak",
    "present",
    "program",
    "taken",
    "zeros",
]


class Kind(Protocol):
    """What the file of one kind of device offers."""

    def present(self) -> list[Device]:
        """Those of this machine, in torch's order."""

    def free_memory(self, index: int) -> Quantity:
        """Bytes that this process may still use on one of them."""

    def program(self, index: int) -> int:
        """Bytes on one of them that this process has now, as far as that is told."""

    def peak(self, index: int, work: Callable[[], object]) -> int | None:
        """The most bytes that `work` has at once on one of them beside what is there."""


_KINDS: Mapping[str, Kind] = {"cuda": cuda, "musa": musa, "cpu": cpu}
"""In the order in which "auto" looks."""


def present() -> list[Device]:
    """Every device of this machine, those that "auto" prefers first."""
    return [device for kind in _KINDS.values() for device in kind.present()]


def find(name: str) -> Device:
    """The device called "auto" (the first GPU, else the CPU), a kind, or a kind and a number.

    ValueError if there is none of that name, telling which there are.
    """
    # A kind that was not asked for is not looked at, so that its broken driver is in nobody's way.
    kind = _KINDS.get(name.partition(":")[0])
    for device in kind.present() if kind is not None else present():
        if name in ("auto", device.name, device.name.partition(":")[0]):
            return device
    names = ", ".join(device.name for device in present())
    raise ValueError(f"device={name!r} is not here; there are: auto, {names}")


def free_memory(device: Device) -> Quantity:
    """Bytes that this process may still use on the device."""
    kind, _, index = device.name.partition(":")
    return _KINDS[kind].free_memory(int(index or 0))


def program(device: Device) -> int:
    """Bytes on the device that this process has now: of a GPU, tensors, not what its driver has."""
    kind, _, index = device.name.partition(":")
    return _KINDS[kind].program(int(index or 0))


def peak(device: Device, work: Callable[[], object]) -> int | None:
    """The most bytes that `work` has at once on the device beside what is there.

    None where that is not told.
    """
    kind, _, index = device.name.partition(":")
    return _KINDS[kind].peak(int(index or 0), work)


def zeros(device: Device, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A tensor of zeros on the device; on the host, a page takes memory once it is written to."""
    if device.torch_device == "cpu":
        # torch.zeros would write every page.
        return memory.zeros(prod(shape) * dtype.itemsize).view(dtype).view(shape)
    return torch.zeros(shape, dtype=dtype, device=device.torch_device)


def taken(device: Device, arrays: Sequence[torch.Tensor]) -> Iterator[None]:
    """Make what `zeros` gave take its memory, a piece at every step; elsewhere it has it."""
    return memory.taken(arrays) if device.torch_device == "cpu" else iter(())


def describe(device: Device, measured: DeviceSpec | None = None) -> list[tuple[str, str]]:
    """(label, value) rows that tell a user all about it; measured: what `measure` returned."""
    spec = measured or device.spec
    rows = [
        ("name", spec.name),
        ("vendor", spec.vendor),
        ("memory", f"{spec.memory} ({free_memory(device)} free)"),
        *device.facts,
    ]
    if spec.bandwidth is not None:
        rows.append(("memory bandwidth", f"{spec.bandwidth}: {spec.bandwidth.source}"))
    rows += [(f"{dtype} peak", f"{q}: {q.source}") for dtype, q in spec.flops.items()]
    return [
        *rows,
        ("native dtypes", ", ".join(sorted(spec.native_dtypes))),
        ("kernel backends", ", ".join(device.backends)),
        ("distributed", device.distributed),
        ("state", device.state),
    ]
