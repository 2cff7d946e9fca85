"""`pieria bench ops --record`: what operators and the host take here, as a table for the planner.

Knows the parts of a record and their order. Models are not measured, but for a small one of
which only what is not an op's is kept.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.progress import Progress

from pieria import ops
from pieria.bench.record_host import host
from pieria.bench.record_ops import attended, chosen, moved, products
from pieria.bench.recorder import Recorder
from pieria.clock import Clock
from pieria.engine.place import use_threads
from pieria.hardware import cpu, devices
from pieria.hardware.spec import DeviceSpec
from pieria.plan.record import Host, Record

NOTHING = Host(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def record(limits: DeviceSpec, dtype: str, clock: Clock, console: Console | None = None) -> Record:
    """Of the processor, with all threads that serving uses; takes some minutes.

    limits: of the same machine, measured. Progress goes to `console`. ValueError if its kernels
    cannot be recorded.
    """
    ops.use(*devices.find("cpu").backends)
    if ops.service("cpu", "record") is None:
        raise ValueError("the C++ kernels were not built, and nothing else is recorded")
    threads, isa = use_threads(None, "auto", "cpu", 1)
    recorder = Recorder(clock, dtype, limits)
    assert limits.bandwidth is not None
    peak = limits.flops.get(dtype, limits.flops["float32"]).value
    made = Record(
        cpu.processor().name,
        int(threads.value),
        isa.value,
        dtype,
        limits.bandwidth.value,
        peak,
        recorder.reread(),
        host=NOTHING,
    )
    parts: dict[str, Callable[[], Any]] = {
        "products": lambda: tuple(products(recorder)),
        "attended": lambda: tuple(attended(recorder)),
        "chosen": lambda: tuple(chosen(recorder)),
        "moved": lambda: tuple(moved(recorder)),
        "host": lambda: host(made, clock),
    }
    with Progress(console=console, transient=True, disable=console is None) as progress:
        task = progress.add_task("", total=len(parts))
        for name, part in parts.items():
            progress.update(task, description=name)
            made = replace(made, **{name: part()})
            progress.advance(task)
    return made
