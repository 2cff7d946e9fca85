"""The command line: `pieria serve|chat|generate|pull|devices|quality|quantize|plan|keys|bench`.

Knows which parts a command needs and prints what they say. Imports them when the command is known:
help and errors about options must not wait for torch.
"""

import argparse
import asyncio
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pieria import __version__, logs
from pieria.clock import RealTime
from pieria.config import Decision, add_arguments, collect, option, print_decisions
from pieria.engine.runner_config import DTYPES, RunnerConfig
from pieria.engine.sampling_params import SamplingParams
from pieria.engine.scheduler import SchedulerConfig

if TYPE_CHECKING:
    from pieria.hardware.spec import Device
    from pieria.plan.virtual_config import VirtualConfig
    from pieria.server.config import ServerConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GenerationOptions:
    """Generation"""

    max_tokens: int | None = option(None, help="most tokens of an answer; default: what fits")
    temperature: float | None = option(
        None, help="0 always takes the most likely token; default: the model's own, else 0.7"
    )
    top_p: float | None = option(
        None,
        help="draw from the most likely tokens that make up this probability;"
        " default: the model's own, else 1",
    )
    top_k: int | None = option(
        None,
        help="draw from this many of the most likely tokens, 0: from all; default: the model's own",
    )
    min_p: float | None = option(
        None,
        help="leave out tokens less likely than this share of the likeliest;"
        " default: the model's own, else 0",
    )
    repetition_penalty: float | None = option(
        None,
        help="above 1, tokens that occurred are less likely; default: the model's own, else 1",
    )
    seed: int | None = option(None, help="same seed, same answer")

    def params(self, defaults: Mapping[str, Any]) -> SamplingParams:
        """What was given, over the model's own defaults, over ours.

        ValueError, naming option, value and what is allowed.
        """
        ours = {"temperature": 0.7, "max_tokens": None}
        given = {name: value for name, value in vars(self).items() if value is not None}
        return SamplingParams(**{**ours, **defaults, **given})


@dataclass(frozen=True)
class ChatOptions:
    """Conversation"""

    system: str | None = option(None, help="the system message that the conversation begins with")


@dataclass(frozen=True)
class PromptOptions:
    """Prompts"""

    prompt: tuple[str, ...] = option(
        (), positional=True, help="texts to continue; none: standard input, a prompt per line"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 if it succeeded, 2 for what the user should change, 1 for what failed."""
    parser = _parser()
    options = parser.parse_args(arguments)
    from pieria.engine.text import EngineDead, RequestFailed

    logs.configure()
    try:
        result: int = options.run(options)
        return result
    except (ValueError, OSError, EngineDead, RequestFailed) as error:
        print(f"pieria {options.command}: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except KeyboardInterrupt:
        return 130


def serve(options: argparse.Namespace) -> int:
    """Serve a model over an OpenAI-compatible API."""
    from pieria.hardware.catalog import VIRTUAL
    from pieria.plan.virtual_config import VirtualConfig
    from pieria.server.config import ServerConfig

    parts = (RunnerConfig, SchedulerConfig, ServerConfig, VirtualConfig)
    runner, scheduler, server, virtual = collect(options, options.config, *parts)
    logs.configure(server.log_format, getattr(logging, server.log_level.upper()))
    if runner.device.startswith(VIRTUAL):
        return asyncio.run(_serve(*_lent(runner, virtual), scheduler, server, virtual))
    given = [k for k, v in vars(virtual).items() if v != getattr(VirtualConfig(), k)]
    if given:
        raise ValueError(f"--device {runner.device} is not virtual: {given[0]} means nothing there")
    name, runner = runner.model, _fetched(runner)
    return asyncio.run(_serve(name, runner, scheduler, server, None))


def chat(options: argparse.Namespace) -> int:
    """Talk with a model in the terminal."""
    from pieria.llm import LLM

    parts = (RunnerConfig, SchedulerConfig, GenerationOptions, ChatOptions)
    runner, scheduler, generation, conversation = collect(options, options.config, *parts)
    generation.params({})  # what cannot be is refused before the model is loaded
    with LLM(**{**vars(runner), **vars(scheduler)}) as llm:
        _talk(llm, generation.params(llm.sampling_defaults), conversation.system)
    return 0


def generate(options: argparse.Namespace) -> int:
    """Continue texts, given as arguments or one a line on standard input."""
    from pieria.llm import LLM

    parts = (RunnerConfig, SchedulerConfig, GenerationOptions, PromptOptions)
    runner, scheduler, generation, given = collect(options, options.config, *parts)
    generation.params({})
    prompts = list(given.prompt) or [line.rstrip("\n") for line in sys.stdin]
    if not prompts:
        raise ValueError("there is no prompt, neither as an argument nor on standard input")
    with LLM(**{**vars(runner), **vars(scheduler)}) as llm:
        for output in llm.generate(prompts, generation.params(llm.sampling_defaults)):
            print(f"{output.prompt}{output.outputs[0].text}")
    return 0


def pull(options: argparse.Namespace) -> int:
    """Fetch a model: a short name, a hub id, or a path that is only checked."""
    from pieria.models.pull import pull

    print(pull(options.name))
    return 0


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


def quantize(options: argparse.Namespace) -> int:
    """Write a model in fewer bits, in the layout of compressed-tensors."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from pieria.models.checkpoint import open_checkpoint
    from pieria.models.pull import pull
    from pieria.models.quantized import write

    checkpoint = open_checkpoint(pull(options.model))
    output = options.output or Path(f"{Path(options.model).stem}-{options.to}")
    columns = (TextColumn("quantizing"), BarColumn(), TextColumn("{task.percentage:.0f} %"))
    console = Console(stderr=True)
    silent = not console.is_terminal
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=silent) as bar:
        task = bar.add_task("quantizing", total=write.nbytes(checkpoint))
        ignored = write.quantize(
            checkpoint, options.to, output, lambda count: bar.advance(task, count)
        )
    print(f"{output}: linear layers in {options.to}, but for {', '.join(ignored) or 'none'}")
    return 0


def quality(options: argparse.Namespace) -> int:
    """Measure what formats of fewer bits cost: perplexity, divergence from float32, speed."""
    from rich.console import Console

    from pieria.bench import quality_cli
    from pieria.bench.quality_options import QualityOptions

    [wanted] = collect(options, options.config, QualityOptions)
    out = Console(width=None if sys.stdout.isatty() else 140)
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
    Console(width=None if sys.stdout.isatty() else 140).print(report.table(runs, wanted))
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
        return _record(device, options.dtype[0], options.record)
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
    Console(width=None if sys.stdout.isatty() else 140).print(table(rows))
    return 0


def _record(device: "Device", dtype: str, path: Path) -> int:
    """Measure what predictions for this machine are made of, and write it."""
    from rich.console import Console

    from pieria.bench.limits import measured
    from pieria.bench.record import record

    if device.torch_device != "cpu":
        raise ValueError(f"device={device.name!r}: only the processor is recorded")
    clock, console = RealTime(), Console(stderr=True)
    made = record(measured(device, clock), dtype, clock, console)
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
    console = Console(width=None if sys.stdout.isatty() else 200)
    for table in compare.tables(points, summaries, columns):
        console.print(table)
    if options.json is not None:
        compare.save(options.json, points)
    return 0


def _show_spec(name: str, as_json: bool) -> None:
    """What is known of a device and what it usually comes in, or of a cluster and its device."""
    from rich.console import Console
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
        Console(width=None if sys.stdout.isatty() else 160).print(table)


async def _serve(
    name: str,
    runner: RunnerConfig,
    scheduler: SchedulerConfig,
    config: "ServerConfig",
    virtual: "VirtualConfig | None",
) -> int:
    """Start the engine's process, serve while it loads and until told to stop, and end it.

    virtual: of a device that is not there.
    """
    from pieria.engine.client import EngineClient
    from pieria.engine.sampling_params import sampling_defaults
    from pieria.engine.text import TextEngine
    from pieria.llm import FACTORY
    from pieria.models import catalog
    from pieria.models.checkpoint import open_checkpoint
    from pieria.plan.virtual_config import VIRTUAL_FACTORY, device_title

    clock = RealTime()
    checkpoint = open_checkpoint(Path(runner.model))
    for note in checkpoint.notes:
        log.warning("%s", note)
    settings: dict[str, Any] = {"runner": asdict(runner), "scheduler": asdict(scheduler)}
    settings["log_format"] = config.log_format
    factory, title = FACTORY, ""
    if virtual is not None:
        factory, title = VIRTUAL_FACTORY, device_title(runner.device, virtual)
        log.warning("%s", title)
        settings |= {"virtual": asdict(virtual), "model": name}
    hang = config.engine_timeout_seconds
    client = await EngineClient.start_process(factory, settings, clock, hang)
    # While the engine's process imports what it needs.
    from pieria.server.chat import template
    from pieria.server.serve import serve
    from pieria.server.state import Served, ServerState

    names = config.served_model_name or (name,)
    state = ServerState(names, __version__, client, clock, title)

    async def load() -> Served:
        tokenizer = await asyncio.to_thread(checkpoint.tokenizer)
        # What tokens stand for is made on first use, which is not to hold up an answer.
        await asyncio.to_thread(tokenizer.token_bytes, 0)
        chat_template = template(config, checkpoint.chat_template, tokenizer)
        ready = await client.wait_ready()
        print_decisions(Decision(*d) for d in ready.decisions)
        limit = scheduler.max_num_seqs + config.max_queued_requests
        engine = TextEngine(
            client,
            tokenizer,
            ready.max_model_len,
            ready.vocabulary,
            limit,
            config.max_queued_tokens,
        )
        says = (catalog.generation_config(name), checkpoint.generation_config)
        defaults = sampling_defaults(*says) if config.generation_config == "auto" else {}
        return Served(engine, chat_template, defaults)

    try:
        return await serve(state, config, clock, load)
    finally:
        await client.close()


def _talk(llm: Any, params: SamplingParams, system: str | None) -> None:
    """A conversation, until end of input or /exit. Ctrl-C ends an answer, not the conversation."""
    beginning = [{"role": "system", "content": system}] if system else []
    messages = list(beginning)
    print("Type a message; /reset begins anew, /exit ends. Ctrl-C stops an answer.")
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            return
        if text == "/exit":
            return
        if text == "/reset":
            messages = list(beginning)
        elif text:
            messages.append({"role": "user", "content": text})
            messages.append({"role": "assistant", "content": _answer(llm, messages, params)})


def _answer(llm: Any, messages: list[dict[str, str]], params: SamplingParams) -> str:
    """Print an answer as it comes; what was said of it when it ended or was stopped."""
    said = ""
    deltas = llm.stream_chat(messages, params)
    try:
        for delta in deltas:
            print(delta.text, end="", flush=True)
            said += delta.text
    except KeyboardInterrupt:
        deltas.close()
    print()
    return said


def _fetched(runner: RunnerConfig) -> RunnerConfig:
    from pieria.models.pull import pull

    return replace(runner, model=str(pull(runner.model)))


def _lent(runner: RunnerConfig, virtual: "VirtualConfig") -> tuple[str, RunnerConfig]:
    """The name of a model that need not be here, and a config with one that lends its tokenizer."""
    from pieria.models.pull import pull, resolve

    path = Path(runner.model).expanduser()
    names = ("tokenizer.json", "tokenizer.model", "*.gguf")
    has_words = path.suffix == ".gguf" or any(any(path.glob(name)) for name in names)
    there = resolve(runner.model) if has_words or runner.model == virtual.words else None
    return runner.model, replace(runner, model=str(there or pull(virtual.words)))


class _Command(argparse.ArgumentParser):
    """Takes options and other arguments in any order, such as `generate MODEL --seed 1 TEXT`."""

    _passing = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        # What takes them in any order does so in two passes, through this method again.
        if self._passing or self._subparsers is not None:
            return super().parse_known_args(args, namespace)
        self._passing = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._passing = False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pieria",
        description="Serve, measure and talk with large language models.",
        epilog="`pieria COMMAND --help` explains each option. A first step:"
        " pieria serve smollm2-135m",
    )
    parser.add_argument("--version", action="version", version=f"pieria {__version__}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=_Command
    )
    from pieria.plan.virtual_config import VirtualConfig
    from pieria.server.config import ServerConfig

    _add(commands, serve, RunnerConfig, SchedulerConfig, ServerConfig, VirtualConfig)
    _add(commands, chat, RunnerConfig, SchedulerConfig, GenerationOptions, ChatOptions)
    _add(commands, generate, RunnerConfig, SchedulerConfig, GenerationOptions, PromptOptions)
    _add(commands, pull).add_argument(
        "name", help="short name (smollm2-135m), hub id (owner/name), folder or GGUF file"
    )
    shown = _add(commands, devices)
    shown.add_argument(
        "--no-measure", action="store_true", help="only show what is known without measuring"
    )
    shown.add_argument(
        "--spec",
        metavar="NAME",
        help="of a device or cluster, here or not: every number with its source",
    )
    shown.add_argument("--json", action="store_true", help="as JSON instead of tables")
    from pieria.bench.quality_options import QualityOptions
    from pieria.plan.cli import register
    from pieria.server import keys_cli

    _add(commands, quality, QualityOptions)
    written = _add(commands, quantize)
    written.add_argument("model", help="as `pieria serve` takes it")
    written.add_argument(
        "--to",
        required=True,
        metavar="FORMAT",
        help="int8, int4-g32, int4-g64, int4-g128 and the last three with -zp, int8-g32, fp8 or"
        " fp8-block, to the nearest number",
    )
    written.add_argument(
        "--output", type=Path, metavar="DIR", help="default: the model's name and the format"
    )

    register(commands)
    keys_cli.register(commands)
    bench = commands.add_parser("bench", help="measure this machine with Pieria on it")
    kinds = bench.add_subparsers(dest="bench", required=True, metavar="WHAT")
    timed = _add(kinds, bench_ops, name="ops")
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
    compared = _add(kinds, bench_compare, name="compare")
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
    from pieria.bench.options import (
        ReportOptions,
        ThroughputOptions,
        TrafficOptions,
        WorkloadOptions,
    )

    # The model has a flag, as in the benchmarks that people know.
    load = (WorkloadOptions, TrafficOptions, ReportOptions, RunnerConfig, SchedulerConfig)
    _add(kinds, bench_serve, *load, name="serve", flagged=("model",))
    inside = (WorkloadOptions, ThroughputOptions, RunnerConfig, SchedulerConfig)
    _add(kinds, bench_throughput, *inside, name="throughput", flagged=("model",))
    start = _add(kinds, bench_startup, name="startup")
    start.add_argument("model", help="as `pieria serve` takes it")
    start.add_argument("--streams", type=int, default=32, help="how many (default: %(default)s)")
    start.add_argument(
        "--dtype", choices=DTYPES[1:], default="bfloat16", help="(default: %(default)s)"
    )
    return parser


def _add(
    commands: Any,
    run: Any,
    *configs: type[Any],
    name: str | None = None,
    flagged: tuple[str, ...] = (),
) -> Any:
    """A command that calls `run`, with the options of its Configs; flagged: see add_arguments."""
    command = commands.add_parser(name or run.__name__, help=run.__doc__, description=run.__doc__)
    command.set_defaults(run=run)
    if configs:
        command.add_argument(
            "--config", type=Path, metavar="FILE", help="TOML file with any of these options"
        )
        add_arguments(command, *configs, flagged=flagged)
    return command


if __name__ == "__main__":
    sys.exit(main())
