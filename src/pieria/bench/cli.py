"""`pieria devices`, `quality` and `bench ...`: what measuring takes on the command line.

Each command is a function of its options that prints and returns the exit status; `register` adds
them. Imports what a command needs when it runs, for help must not wait for torch.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pieria.clock import RealTime
from pieria.config import add_command, collect
from pieria.engine.runner_config import DTYPES, RunnerConfig
from pieria.engine.scheduler import SchedulerConfig

if TYPE_CHECKING:
    from rich.console import Console

    from pieria.hardware.spec import Device


def register(commands: Any) -> None:
    """Add the commands. commands: what `ArgumentParser.add_subparsers` returned."""
    from pieria.bench.options import (
        ReportOptions,
        ThroughputOptions,
        TrafficOptions,
        WorkloadOptions,
    )
    from pieria.bench.quality_options import QualityOptions

    shown = add_command(commands, devices)
    shown.add_argument(
        "--no-measure", action="store_true", help="only show what is known without measuring"
    )
    shown.add_argument(
        "--spec",
        metavar="NAME",
        help="of a device or cluster, here or not: every number with its source",
    )
    shown.add_argument("--json", action="store_true", help="as JSON instead of tables")
    add_command(commands, quality, QualityOptions)
    bench = commands.add_parser("bench", help="measure this machine with Pieria on it")
    kinds = bench.add_subparsers(dest="bench", required=True, metavar="WHAT")
    timed = add_command(kinds, bench_ops, name="ops")
    timed.add_argument(
        "--case", default="*", metavar="OP/CASE", help='with wildcards: "linear/*" (default: all)'
    )
    timed.add_argument(
        "--backend", nargs="+", help="default: the references and the device's own backends"
    )
    timed.add_argument(
        "--dtype", nargs="+", choices=DTYPES[1:], default=["float32"], help="(default: float32)"
    )
    timed.add_argument("--device", default="auto", help="(default: %(default)s)")
    timed.add_argument(
        "--record",
        type=Path,
        metavar="FILE",
        help="instead, measure what predictions for this machine are made of, and write it;"
        " best with --dtype bfloat16, and nothing else running",
    )
    compared = add_command(kinds, bench_compare, name="compare")
    against = compared.add_mutually_exclusive_group(required=True)
    against.add_argument(
        "--published", type=Path, metavar="CSV", help="published measurements of serving"
    )
    against.add_argument(
        "--device", metavar="NAME", help="a card's own measured operators, such as mtt-s5000"
    )
    against.add_argument(
        "--local", action="store_true", help="the engine on this machine, by its recorded table"
    )
    compared.add_argument(
        "--table",
        type=Path,
        default=Path("record.json"),
        metavar="FILE",
        help="what `bench ops --record` wrote, for --local (default: %(default)s)",
    )
    compared.add_argument("--json", type=Path, metavar="FILE", help="an object a row")
    # The model has a flag, as in the benchmarks that people know.
    load = (WorkloadOptions, TrafficOptions, ReportOptions, RunnerConfig, SchedulerConfig)
    add_command(kinds, bench_serve, *load, name="serve", flagged=("model",))
    inside = (WorkloadOptions, ThroughputOptions, RunnerConfig, SchedulerConfig)
    add_command(kinds, bench_throughput, *inside, name="throughput", flagged=("model",))
    start = add_command(kinds, bench_startup, name="startup")
    start.add_argument("model", help="as `pieria serve` takes it")
    start.add_argument("--streams", type=int, default=32, help="how many (default: %(default)s)")
    start.add_argument(
        "--dtype", choices=DTYPES[1:], default="bfloat16", help="(default: %(default)s)"
    )


def devices(options: argparse.Namespace) -> int:
    """Show the devices at hand and what they reach, or what is known of one that is not here."""
    if options.spec is not None and options.spec != "cpu":
        _show_spec(options.spec, options.json)
        return 0
    from rich.console import Console
    from rich.table import Table

    from pieria.bench.limits import measured
    from pieria.hardware.devices import describe, find, present
    from pieria.hardware.listing import device_json

    found = []
    for device in present() if options.spec is None else [find(options.spec)]:
        table = Table(title=device.name, show_header=False, title_justify="left")
        limits = None if options.no_measure else measured(device, RealTime())
        for label, value in describe(device, limits):
            table.add_row(label, value)
        spec = device_json(limits or device.spec)
        found.append({"device": device.name, **spec, "facts": dict(device.facts)})
        if not options.json:
            Console().print(table)
    if options.json:
        print(json.dumps(found, indent=2))
    return 0


def _show_spec(name: str, as_json: bool) -> None:
    """What is known of a device and what it usually comes in, or of a cluster and its device."""
    from rich.table import Table

    from pieria.hardware import catalog, listing

    cluster = catalog.cluster(catalog.counted(name)[0])
    device = cluster.device
    if as_json:
        parts = {"device": listing.device_json(device), "cluster": listing.cluster_json(cluster)}
        print(json.dumps(parts, indent=2))
        return
    for title, rows in (
        (device.name, listing.device_rows(device)),
        (cluster.name, listing.cluster_rows(cluster)),
    ):
        table = Table(*listing.HEADINGS, title=title, title_justify="left")
        for row in rows:
            table.add_row(*row.cells())
        _console(160).print(table)


def quality(options: argparse.Namespace) -> int:
    """Measure what formats of fewer bits cost: perplexity, divergence from float32, speed."""
    from rich.console import Console

    from pieria.bench import quality_cli
    from pieria.bench.quality_options import QualityOptions

    [wanted] = collect(options, options.config, QualityOptions)
    out = _console(140)
    quality_cli.run(wanted, RealTime(), out, Console(stderr=True))
    return 0


def bench_startup(options: argparse.Namespace) -> int:
    """Time the start of a server up to its first answer, and read its memory under many streams."""
    from pieria.bench import startup

    print(startup.run(options.model, options.dtype, options.streams, RealTime()))
    return 0


def bench_serve(options: argparse.Namespace) -> int:
    """Load a server, one that is there or one started for it, and time its answers."""
    from rich.console import Console

    from pieria.bench import report, serve
    from pieria.bench.options import ReportOptions, TrafficOptions, WorkloadOptions
    from pieria.bench.process import end_when_told

    end_when_told()
    configs = (RunnerConfig, SchedulerConfig, WorkloadOptions, TrafficOptions, ReportOptions)
    runner, scheduler, workload, traffic, wanted = collect(options, options.config, *configs)
    progress = Console(stderr=True)
    runs = serve.run(runner, scheduler, workload, traffic, wanted, RealTime(), progress)
    _console(140).print(report.table(runs, wanted))
    return 1 if any(run["failed"] for run in runs) else 0


def bench_throughput(options: argparse.Namespace) -> int:
    """Time many prompts in this process, without a server."""
    from pieria.bench import throughput, workload
    from pieria.bench.options import ThroughputOptions, WorkloadOptions
    from pieria.llm import LLM

    configs = (RunnerConfig, SchedulerConfig, WorkloadOptions, ThroughputOptions)
    runner, scheduler, wanted, output = collect(options, options.config, *configs)
    throughput.check(wanted)
    with LLM(**{**vars(runner), **vars(scheduler)}) as llm:
        made = [workload.make(wanted, llm.tokenizer, salt) for salt in ("warm-up", "timed")]
        found = throughput.run(llm, made[1], made[0][:1], RealTime())
    print(found)
    if output.output_json is not None:
        found.save(output.output_json)
    return 0


def bench_ops(options: argparse.Namespace) -> int:
    """Time every op on every backend, against what the machine's memory and arithmetic allow."""
    import torch
    from rich.console import Console

    from pieria import ops
    from pieria.bench.limits import measured
    from pieria.bench.ops import Limits, run, table
    from pieria.hardware.devices import find

    device, clock = find(options.device), RealTime()
    if options.record is not None:
        return _record(device, options.dtype, options.record)
    spec = measured(device, clock)
    assert spec.bandwidth is not None
    peaks = {getattr(torch, name): peak.value for name, peak in spec.flops.items()}
    rows = run(
        options.backend or (ops.REFERENCE, *device.backends),
        options.case,
        clock,
        Limits(spec.bandwidth.value, peaks),
        dtypes=[getattr(torch, name) for name in options.dtype],
        device=device.torch_device,
        console=Console(stderr=True),
    )
    _console(140).print(table(rows))
    return 0


def _record(device: "Device", dtypes: list[str], path: Path) -> int:
    """Measure what predictions for this machine are made of, and write it."""
    from rich.console import Console

    from pieria.bench.limits import measured
    from pieria.bench.record import record

    if device.torch_device != "cpu":
        raise ValueError(f"device={device.name!r}: only the processor is recorded")
    if len(dtypes) > 1:
        raise ValueError(f"--dtype {' '.join(dtypes)}: --record {path} holds one dtype; give one")
    clock, console = RealTime(), Console(stderr=True)
    made = record(measured(device, clock), dtypes[0], clock, console)
    made.save(path)
    print(f"{path}: {made.machine}, {made.threads} threads, {made.isa}, {made.dtype}")
    return 0


def bench_compare(options: argparse.Namespace) -> int:
    """Show predictions beside what was measured: published, of a card's operators, or here."""
    from rich.console import Console
    from rich.progress import Progress

    from pieria.bench import compare

    progress = Console(stderr=True)
    if options.published is not None:
        points, summaries = compare.published(options.published)
        columns = ["model", "hardware", "parallelism", "batch", "seq_in", "seq_out"]
    elif options.device is not None:
        points, summaries = compare.operators(options.device)
        columns = ["operator"]
    else:
        with Progress(console=progress, transient=True) as bars:
            task = bars.add_task("")
            points, summaries = compare.local(
                options.table,
                lambda what, number, total: bars.update(
                    task, description=what, completed=number, total=total
                ),
            )
        columns = ["model", "load"]
    console = _console(200)
    for table in compare.tables(points, summaries, columns):
        console.print(table)
    if options.json is not None:
        compare.save(options.json, points)
    return 0


def _console(width: int) -> "Console":
    """Standard output: a terminal's own width, or one that is wide enough for the tables."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else width)
