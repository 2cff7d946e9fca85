"""`pieria plan ...`: what planning takes on the command line.

Each command is a function of its options that prints and returns the exit status; `register` adds
them. Imports what a command needs when it runs, for help must not wait for torch.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pieria.config import add_command, collect

if TYPE_CHECKING:
    from pieria.plan.serve import Watchers


def register(commands: Any) -> None:
    """Add `plan` with its commands. commands: what `ArgumentParser.add_subparsers` returned."""
    plan = commands.add_parser("plan", help="predict, plan and check machines that are not there")
    kinds = plan.add_subparsers(dest="plan", required=True, metavar="WHAT")
    checked = add_command(kinds, check)
    checked.add_argument("design", type=Path, metavar="DESIGN.yaml", help="see examples/")
    checked.add_argument("--json", action="store_true", help="an object a line of the table")
    claimed = add_command(kinds, claims)
    claimed.add_argument("--json", action="store_true", help="the same as an object")
    from pieria.plan.serve_options import (
        EngineOptions,
        LayoutOptions,
        OutputOptions,
        PlanOptions,
    )

    add_command(kinds, serve, PlanOptions, LayoutOptions, EngineOptions, OutputOptions)


def check(options: argparse.Namespace) -> int:
    """Hold a super-node's design against what is public of OISA; 1 if a line is not met."""
    from rich.console import Console
    from rich.table import Table

    from pieria.plan.check import check
    from pieria.plan.design import load

    design = load(options.design)
    lines = check(design)
    if options.json:
        print(json.dumps([asdict(line) for line in lines], indent=2))
    else:
        table = Table("", "asked", "found", "verdict", "source", title=design.name)
        for line in lines:
            table.add_row(line.subject, line.asked, line.found, line.verdict, line.source)
        Console(width=_width()).print(table)
    return int(any(line.verdict == "not met" for line in lines))


def claims(options: argparse.Namespace) -> int:
    """Hold what is said of the MTT S5000 against predictions of it and of other cards."""
    from rich.console import Console
    from rich.progress import Progress

    from pieria.plan import show_claims
    from pieria.plan.claims import claims

    with Progress(console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("")
        found = claims(
            progress=lambda what, number, total: bars.update(
                task, description=what, completed=number, total=total
            )
        )
    if options.json:
        print(json.dumps(asdict(found), indent=2))
        return 0
    console = Console(width=_width())
    for table in show_claims.tables(found):
        console.print(table)
    return 0


def serve(options: argparse.Namespace) -> int:
    """Say how fast and on which layout a model is served on cards that need not be there."""
    from rich.console import Console

    from pieria.plan.serve_options import (
        STANDARD_OUTPUT,
        EngineOptions,
        LayoutOptions,
        OutputOptions,
        PlanOptions,
    )
    from pieria.plan.workload import HELP

    parts = (PlanOptions, LayoutOptions, EngineOptions, OutputOptions)
    wanted, layout, engine, output = collect(options, options.config, *parts)
    if wanted.workload == "help":
        print(HELP)
        return 0
    from pieria.plan import serve, show, write

    with _progress() as watchers:
        report = serve.serve(wanted, layout, engine, watchers)
    write.write(report, output)
    if output.json == STANDARD_OUTPUT:
        return 0
    console = Console(width=_width())
    for table in show.tables(report, output.explain):
        console.print(table)
    return 0


@contextmanager
def _progress() -> "Iterator[Watchers]":
    """A bar on standard error, where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from pieria.plan.serve import Watchers

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    silent = not console.is_terminal
    with Progress(*columns, console=console, disable=silent, transient=True) as bars:
        task = bars.add_task("planning", total=None)

        def report(what: str, number: int, total: int) -> None:
            bars.update(task, description=what, completed=number, total=total)

        def progress(now: float, ended: int) -> None:
            bars.update(task, description=f"{now:.0f} s, {ended} requests answered", total=None)

        yield Watchers(report, progress)


def _width() -> int | None:
    """A terminal's own width; wide enough for tables where there is none."""
    return None if sys.stdout.isatty() else 160
