"""`pieria keys add|list|revoke`: the file of API keys, changed while a server may be using it.

Knows the command line. What a key is, `keys` knows.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pieria.clock import RealTime
from pieria.config import add_arguments, add_command, collect, option
from pieria.server import keys
from pieria.server.keys import LIMITS, SCOPES, Scope


@dataclass(frozen=True)
class KeyFileOptions:
    """File"""

    api_key_file: Path | None = option(None, help="the file, as `pieria serve` is given it")

    @property
    def path(self) -> Path:
        if self.api_key_file is None:
            raise ValueError("no file is given: --api-key-file PATH")
        return self.api_key_file


@dataclass(frozen=True)
class KeyOptions:
    """Key"""

    name: str | None = option(None, positional=True, help="what the key is called; it is in logs")


@dataclass(frozen=True)
class GrantOptions:
    """What it may do"""

    scope: tuple[Scope, ...] = option(("inference",), help="which routes it opens")
    requests_per_minute: int | None = option(None, help="default: no limit")
    tokens_per_minute: int | None = option(None, help="prompt and answer; default: no limit")
    max_concurrent_requests: int | None = option(None, help="default: no limit")
    weight: float = option(1.0, help="its share of the engine beside that of other keys")


def register(commands: Any) -> None:
    """Give the command line `keys` and what it does."""
    parser = commands.add_parser("keys", help="make, show and revoke API keys")
    kinds = parser.add_subparsers(dest="keys", required=True, metavar="WHAT")
    for run, name, classes in (
        (add, "add", (KeyOptions, KeyFileOptions, GrantOptions)),
        (show, "list", (KeyFileOptions,)),
        (revoke, "revoke", (KeyOptions, KeyFileOptions)),
    ):
        add_arguments(add_command(kinds, run, name=name), *classes)


def add(options: argparse.Namespace) -> int:
    """Make a key and print it, this one time; the file keeps only its digest."""
    key, file, grant = collect(options, None, KeyOptions, KeyFileOptions, GrantOptions)
    limits = {name: getattr(grant, name) for name in LIMITS}
    scopes = [scope for scope in SCOPES if scope in grant.scope]
    print(keys.add(file.path, _name(key), scopes, limits, RealTime(), grant.weight))
    return 0


def show(options: argparse.Namespace) -> int:
    """Show the keys of a file: names, scopes and limits."""
    from rich.console import Console
    from rich.table import Table

    (file,) = collect(options, None, KeyFileOptions)
    table = Table(
        "name", "scopes", "created", *(limit.replace("_", " ") for limit in (*LIMITS, "weight"))
    )
    for key in keys.read_file(file.path):
        limits = (getattr(key, limit) for limit in LIMITS)
        shown = ("" if limit is None else str(limit) for limit in limits)
        table.add_row(key.name, ", ".join(key.scopes), key.created, *shown, f"{key.weight:g}")
    Console().print(table)
    return 0


def revoke(options: argparse.Namespace) -> int:
    """Take a key out of the file; a running server refuses it within a second."""
    key, file = collect(options, None, KeyOptions, KeyFileOptions)
    keys.revoke(file.path, _name(key))
    return 0


def _name(key: KeyOptions) -> str:
    if key.name is None:
        raise ValueError("no key is named")
    return key.name
