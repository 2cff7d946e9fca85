"""The command line: `pieria serve|chat|generate|pull|quantize`, and the commands of other parts.

Knows which parts a command needs and prints what they say. Imports them when the command is known:
help and errors about options must not wait for torch. What measures is in `bench/cli.py`, what
plans in `plan/cli.py`, keys in `server/keys_cli.py`.
"""

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pieria import __version__, logs
from pieria.clock import RealTime
from pieria.config import Decision, add_command, collect, option, print_decisions
from pieria.engine.cause import EngineDead, RequestFailed
from pieria.engine.runner_config import FACTORY, RunnerConfig
from pieria.engine.sampling_params import SamplingParams
from pieria.engine.scheduler import SchedulerConfig

if TYPE_CHECKING:
    from pieria.engine.child import Child
    from pieria.models.checkpoint import Checkpoint
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
    from pieria.engine import child
    from pieria.hardware import VIRTUAL
    from pieria.plan.virtual_config import VIRTUAL_FACTORY, VirtualConfig
    from pieria.server.config import ServerConfig

    parts = (RunnerConfig, SchedulerConfig, ServerConfig, VirtualConfig)
    runner, scheduler, server, virtual = collect(options, options.config, *parts)
    logs.configure(server.log_format, getattr(logging, server.log_level.upper()))
    is_virtual = runner.device.startswith(VIRTUAL)
    given = [k for k, v in vars(virtual).items() if v != getattr(VirtualConfig(), k)]
    if given and not is_virtual:
        raise ValueError(f"--device {runner.device} is not virtual: {given[0]} means nothing there")
    factory = VIRTUAL_FACTORY if is_virtual else FACTORY
    engine = child.start_process(factory)  # which imports what it needs while this one does
    try:
        model = _opened(runner, scheduler, server, virtual if is_virtual else None)
    except BaseException:
        engine.ended(0.0)
        raise
    import asyncio

    return asyncio.run(_serve(model, scheduler, server, factory, engine))


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


@dataclass(frozen=True)
class _Model:
    """What is served: its name for clients, its files, and what its engine is told.

    title: what users are told of a device that is not there; empty for one that is.
    """

    name: str
    checkpoint: "Checkpoint"
    settings: dict[str, Any]
    title: str


def _opened(
    runner: RunnerConfig,
    scheduler: SchedulerConfig,
    server: "ServerConfig",
    virtual: "VirtualConfig | None",
) -> _Model:
    """Fetch the model and read what is not weights. virtual: of a device that is not there."""
    from pieria.models.checkpoint import open_checkpoint
    from pieria.plan.virtual_config import device_title

    name, title = runner.model, ""
    if virtual is None:
        runner = _fetched(runner)
    else:
        title, runner = device_title(runner.device, virtual), _lent(runner, virtual)
        log.warning("%s", title)
    checkpoint = open_checkpoint(Path(runner.model))
    for note in checkpoint.notes:
        log.warning("%s", note)
    settings: dict[str, Any] = {
        "runner": asdict(runner),
        "scheduler": asdict(scheduler),
        "stop_ids": sorted(checkpoint.stop_ids),
        "log_format": server.log_format,
    }
    if virtual is not None:
        settings |= {"virtual": asdict(virtual), "model": name}
    return _Model(name, checkpoint, settings, title)


async def _serve(
    model: _Model,
    scheduler: SchedulerConfig,
    config: "ServerConfig",
    factory: str,
    engine: "Child",
) -> int:
    """Serve while the engine loads and until told to stop, and end it."""
    import asyncio

    from pieria.engine.client import EngineClient

    clock, hang = RealTime(), config.engine_timeout_seconds
    client = await EngineClient.start_process(factory, model.settings, clock, hang, engine)
    from pieria.engine.sampling_params import sampling_defaults
    from pieria.engine.text import TextEngine
    from pieria.models import catalog
    from pieria.server.chat import template
    from pieria.server.serve import serve
    from pieria.server.state import Served, ServerState

    checkpoint, tokenizer = model.checkpoint, model.checkpoint.tokenizer()
    names = config.served_model_name or (model.name,)
    state = ServerState(names, __version__, client, clock, model.title)

    async def load() -> Served:
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
            clock,
        )
        says = (catalog.generation_config(model.name), checkpoint.generation_config)
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


def _lent(runner: RunnerConfig, virtual: "VirtualConfig") -> RunnerConfig:
    """With a model that lends its tokenizer in place of one that need not be here."""
    from pieria.models.pull import pull, resolve

    path = Path(runner.model).expanduser()
    names = ("tokenizer.json", "tokenizer.model", "*.gguf")
    has_words = path.suffix == ".gguf" or any(any(path.glob(name)) for name in names)
    there = resolve(runner.model) if has_words or runner.model == virtual.words else None
    return replace(runner, model=str(there or pull(virtual.words)))


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

    add_command(commands, serve, RunnerConfig, SchedulerConfig, ServerConfig, VirtualConfig)
    add_command(commands, chat, RunnerConfig, SchedulerConfig, GenerationOptions, ChatOptions)
    add_command(commands, generate, RunnerConfig, SchedulerConfig, GenerationOptions, PromptOptions)
    add_command(commands, pull).add_argument(
        "name", help="short name (smollm2-135m), hub id (owner/name), folder or GGUF file"
    )
    written = add_command(commands, quantize)
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

    from pieria.bench import cli as bench_cli
    from pieria.plan import cli as plan_cli
    from pieria.server import keys_cli

    for part in (bench_cli, plan_cli, keys_cli):
        part.register(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
