"""`pieria bench serve`: a load on an OpenAI-compatible server, one that is there or one of ours.

Puts workload, load and report together. Knows nothing of how a server works.
"""

import asyncio
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from functools import partial
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pieria.bench import report
from pieria.bench.load import Pace, Target, drive, model_name
from pieria.bench.metrics import Outcome, errors, summarize
from pieria.bench.options import ReportOptions, TrafficOptions, WorkloadOptions
from pieria.bench.process import Server, free_port
from pieria.bench.workload import Conversation, make
from pieria.clock import Clock
from pieria.config import to_arguments
from pieria.engine.runner_config import RunnerConfig
from pieria.engine.scheduler import SchedulerConfig
from pieria.models.checkpoint import open_checkpoint
from pieria.models.pull import pull
from pieria.models.tokenizer import Tokenizer

SHOWN_ERRORS = 5


def run(
    runner: RunnerConfig,
    scheduler: SchedulerConfig,
    workload: WorkloadOptions,
    traffic: TrafficOptions,
    wanted: ReportOptions,
    clock: Clock,
    console: Console,
) -> list[dict[str, Any]]:
    """The numbers of one run for each concurrency, shown and saved as wanted.

    console: takes the progress, and what failed. ValueError for options that do not go together;
    OSError or RuntimeError if the server cannot be used.
    """
    if traffic.url and (runner != RunnerConfig(runner.model) or scheduler != SchedulerConfig()):
        raise ValueError(
            f"options of the engine are for a server that is started here, not {traffic.url}"
        )
    if workload.dataset_name == "trace" and traffic.request_rate < float("inf"):
        raise ValueError(f"request_rate={traffic.request_rate}: a trace says when requests come")
    tokenizer = open_checkpoint(pull(workload.tokenizer or runner.model)).tokenizer()
    with _server(runner, scheduler, traffic, clock) as url:
        runs = asyncio.run(
            _runs(url, runner.model, tokenizer, workload, traffic, wanted, clock, console)
        )
    if wanted.save_result:
        date = datetime.fromtimestamp(clock.wall(), timezone.utc).strftime("%Y%m%d-%H%M%S")
        name = re.sub(r"[^\w.-]+", "-", f"{runner.model.rstrip('/').rpartition('/')[2]}-{date}")
        file = wanted.result_dir / (wanted.result_filename or f"{name}.json")
        asked = {**asdict(workload), **asdict(traffic), "header": [k for k, _ in traffic.headers]}
        report.save(file, {"date": date, "model_id": runner.model, **asked}, runs)
    if wanted.plot is not None:
        title = f"{runner.model}, {workload.dataset_name}, {workload.num_prompts} prompts"
        report.plot(wanted.plot, runs, title)
    return runs


async def _runs(
    url: str,
    model: str,
    tokenizer: Tokenizer,
    workload: WorkloadOptions,
    traffic: TrafficOptions,
    wanted: ReportOptions,
    clock: Clock,
    console: Console,
) -> list[dict[str, Any]]:
    name = await model_name(url, traffic.headers, traffic.served_model_name or model, clock)
    target = Target(
        url,
        name,
        tokenizer,
        traffic.body,
        traffic.headers,
        workload.tokenize_prompt,
        traffic.ignore_eos,
    )
    await _warm_up(target, make(workload, tokenizer, "warm-up"), traffic.num_warmups, clock)
    runs = []
    for concurrency in traffic.max_concurrency or (None,):
        conversations = make(workload, tokenizer, concurrency)
        pace = Pace(concurrency, traffic.request_rate, traffic.burstiness)
        arrivals = pace.arrivals(conversations, workload.seed)
        turns = sum(len(conversation.turns) for conversation in conversations)
        with _progress(console) as bar:
            label = "all at once" if concurrency is None else f"{concurrency} at a time"
            task = bar.add_task(label, total=turns)
            outcomes, seconds = await drive(
                target, conversations, arrivals, concurrency, clock, partial(bar.advance, task)
            )
        for message, count in errors(outcomes)[:SHOWN_ERRORS]:
            console.print(f"{count} failed: {message}", style="red", markup=False)
        numbers = summarize(outcomes, seconds, wanted.percentiles, wanted.limits)
        details = _details(outcomes) if wanted.save_detailed else {}
        runs.append({"max_concurrency": concurrency, **numbers, **details})
    return runs


async def _warm_up(
    target: Target, conversations: Sequence[Conversation], count: int, clock: Clock
) -> None:
    """RuntimeError with the server's word if it refuses such requests."""
    some = [Conversation(conversation.turns[:1]) for conversation in conversations[:count]]
    outcomes, _ = await drive(target, some, [0.0] * len(some), None, clock)
    for message, _ in errors(outcomes):
        hint = "; some servers take no token ids: --no-tokenize-prompt" * target.tokenize_prompt
        raise RuntimeError(f"a first request failed: {message}{hint}")


@contextmanager
def _server(
    runner: RunnerConfig, scheduler: SchedulerConfig, traffic: TrafficOptions, clock: Clock
) -> Iterator[str]:
    """The URL of a server that is ready."""
    if traffic.url:
        yield traffic.url
        return
    port = free_port()
    command = [sys.executable, "-m", "pieria.cli", "serve"]
    options = [*to_arguments(runner), *to_arguments(scheduler), "--log-level=warning"]
    with Server([*command, *options, "--port", str(port)], port, clock) as server:
        server.wait("/ready", traffic.ready_check_timeout_sec)
        yield f"http://127.0.0.1:{port}"


def _progress(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    # Drawn seldom: the client must leave the processor to the server.
    return Progress(
        *columns, console=console, refresh_per_second=2, disable=not console.is_terminal
    )


def _details(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Of every request, seconds and tokens, as vLLM names them."""
    return {
        "start_times": [outcome.started for outcome in outcomes],
        "input_lens": [outcome.prompt_tokens for outcome in outcomes],
        "output_lens": [outcome.output_tokens for outcome in outcomes],
        "ttfts": [outcome.ttft for outcome in outcomes],
        "itls": [outcome.gaps for outcome in outcomes],
        "generated_texts": [outcome.text for outcome in outcomes],
        "errors": [outcome.error for outcome in outcomes],
    }
