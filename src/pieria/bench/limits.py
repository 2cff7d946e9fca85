"""What a device can do at best, with the fastest way of reading memory that is built here."""

from pieria.clock import Clock
from pieria.hardware import cpu
from pieria.hardware.measure import measure
from pieria.hardware.spec import Device, DeviceSpec


def measured(device: Device, clock: Clock) -> DeviceSpec:
    """As `measure` has it; where the native kernels were built, memory is read by them too."""
    from pieria.kernels.cpu import DEVICES, native

    if device.torch_device not in DEVICES:
        return measure(device, clock)
    from pieria.kernels.cpu.read import read

    native.use_threads(int(cpu.threads(cpu.processor()).value))
    return measure(device, clock, read)
