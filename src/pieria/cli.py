"""The command line: `pieria serve|chat|generate|pull|devices|bench`.

Knows which parts a command needs and prints what they say. Imports them when the command is known:
help and errors about options must not wait for torch.
"""

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pieria import __version__
from pieria.clock import RealTime
from pieria.config import Decision, add_arguments, collect, option, print_decisions
from pieria.engine.runner_config import DTYPES, RunnerConfig
from pieria.engine.sampling_params import SamplingParams
from pieria.engine.scheduler import SchedulerConfig

if TYPE_CHECKING:
    from pieria.server.config import ServerConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GenerationOptions:
    """Generation"""

    max_tokens: int | None = option(None, help="most tokens of an answer; default: what fits")
    temperature: float = option(0.7, help="0 always takes the most likely token")
    top_p: float = option(
        1.0, help="draw from the most likely tokens that make up this probability"
    )
    top_k: int = option(0, help="draw from this many of the most likely tokens; 0: from all")
    min_p: float = option(0.0, help="leave out tokens less likely than this share of the likeliest")
    repetition_penalty: float = option(1.0, help="above 1, tokens that occurred are less likely")
    seed: int | None = option(None, help="same seed, same answer")

    def params(self) -> SamplingParams:
        """ValueError, naming option, value and what is allowed."""
        return SamplingParams(**vars(self))


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
    from pieria.engine.process import LOG_FORMAT
    from pieria.engine.text import EngineDead, RequestFailed

    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
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
    from pieria.server.config import ServerConfig

    parts = (RunnerConfig, SchedulerConfig, ServerConfig)
    runner, scheduler, server = collect(options, options.config, *parts)
    name, runner = runner.model, _fetched(runner)
    return asyncio.run(_serve(name, runner, scheduler, server))


def chat(options: argparse.Namespace) -> int:
    """Talk with a model in the terminal."""
    from pieria.llm import LLM

    parts = (RunnerConfig, SchedulerConfig, GenerationOptions, ChatOptions)
    runner, scheduler, generation, conversation = collect(options, options.config, *parts)
    params = generation.params()
    with LLM(**{**vars(runner), **vars(scheduler)}) as llm:
        _talk(llm, params, conversation.system)
    return 0


def generate(options: argparse.Namespace) -> int:
    """Continue texts, given as arguments or one a line on standard input."""
    from pieria.llm import LLM

    parts = (RunnerConfig, SchedulerConfig, GenerationOptions, PromptOptions)
    runner, scheduler, generation, given = collect(options, options.config, *parts)
    params = generation.params()
    prompts = list(given.prompt) or [line.rstrip("\n") for line in sys.stdin]
    if not prompts:
        raise ValueError("there is no prompt, neither as an argument nor on standard input")
    with LLM(**{**vars(runner), **vars(scheduler)}) as llm:
        for output in llm.generate(prompts, params):
            print(f"{output.prompt}{output.outputs[0].text}")
    return 0


def pull(options: argparse.Namespace) -> int:
    """Fetch a model: a short name, a hub id, or a path that is only checked."""
    from pieria.models.pull import pull

    print(pull(options.name))
    return 0


def devices(options: argparse.Namespace) -> int:
    """Show the devices at hand, what they reach, and what they support."""
    from rich.console import Console
    from rich.table import Table

    from pieria.hardware.devices import describe, present
    from pieria.hardware.measure import measure

    for device in present():
        table = Table(title=device.name, show_header=False, title_justify="left")
        measured = None if options.no_measure else measure(device, RealTime())
        for label, value in describe(device, measured):
            table.add_row(label, value)
        Console().print(table)
    return 0


def bench_startup(options: argparse.Namespace) -> int:
    """Time the start of a server up to its first answer, and read its memory under many streams."""
    from pieria.bench import startup

    print(startup.run(options.model, options.dtype, options.streams, RealTime()))
    return 0


def bench_ops(options: argparse.Namespace) -> int:
    """Time every op on every backend, against what the machine's memory and arithmetic allow."""
    import torch
    from rich.console import Console

    from pieria import ops
    from pieria.bench.ops import Limits, run, table
    from pieria.hardware.devices import find
    from pieria.hardware.measure import measure

    device, clock = find(options.device), RealTime()
    spec = measure(device, clock)
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


async def _serve(
    name: str, runner: RunnerConfig, scheduler: SchedulerConfig, config: "ServerConfig"
) -> int:
    """Start the engine's process, serve while it loads and until told to stop, and end it."""
    from pieria.engine.client import EngineClient
    from pieria.engine.text import TextEngine
    from pieria.llm import FACTORY
    from pieria.models.checkpoint import open_checkpoint
    from pieria.server.chat import template
    from pieria.server.serve import serve
    from pieria.server.state import Served, ServerState, sampling_defaults

    clock = RealTime()
    checkpoint = open_checkpoint(Path(runner.model))
    for note in checkpoint.notes:
        log.warning("%s", note)
    settings = {"runner": asdict(runner), "scheduler": asdict(scheduler)}
    client = await EngineClient.start_process(FACTORY, settings, clock)
    names = config.served_model_name or (name,)
    state = ServerState(names, __version__, client, clock)

    async def load() -> Served:
        tokenizer = await asyncio.to_thread(checkpoint.tokenizer)
        ready = await client.wait_ready()
        print_decisions(Decision(*d) for d in ready.decisions)
        limit = scheduler.max_num_seqs + config.max_queued_requests
        engine = TextEngine(client, tokenizer, ready.max_model_len, limit)
        given = checkpoint.generation_config if config.generation_config == "auto" else {}
        chat_template = template(config, checkpoint.chat_template, tokenizer)
        return Served(engine, chat_template, sampling_defaults(given))

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
    from pieria.server.config import ServerConfig

    _add(commands, serve, RunnerConfig, SchedulerConfig, ServerConfig)
    _add(commands, chat, RunnerConfig, SchedulerConfig, GenerationOptions, ChatOptions)
    _add(commands, generate, RunnerConfig, SchedulerConfig, GenerationOptions, PromptOptions)
    _add(commands, pull).add_argument(
        "name", help="short name (smollm2-135m), hub id (owner/name), folder or GGUF file"
    )
    _add(commands, devices).add_argument(
        "--no-measure", action="store_true", help="only show what is known without measuring"
    )
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
    start = _add(kinds, bench_startup, name="startup")
    start.add_argument("model", help="as `pieria serve` takes it")
    start.add_argument("--streams", type=int, default=32, help="how many (default: %(default)s)")
    start.add_argument(
        "--dtype", choices=DTYPES[1:], default="bfloat16", help="(default: %(default)s)"
    )
    return parser


def _add(commands: Any, run: Any, *configs: type[Any], name: str | None = None) -> Any:
    """A command that calls `run`, with the options of its Configs."""
    command = commands.add_parser(name or run.__name__, help=run.__doc__, description=run.__doc__)
    command.set_defaults(run=run)
    if configs:
        command.add_argument(
            "--config", type=Path, metavar="FILE", help="TOML file with any of these options"
        )
        add_arguments(command, *configs)
    return command


if __name__ == "__main__":
    sys.exit(main())
