"""Options: from the fields of a Config to a command line and a TOML file, and back to an instance.

Knows the mechanics only. Each part of the project owns a Config, a frozen dataclass with fields
made by `option`; what is allowed beyond types and choices, the Config checks itself. In the class
`SchedulerConfig`, the field

    max_num_seqs: int = option(128, help="most requests in one step")

is `--max-num-seqs N` on the command line and `max-num-seqs = N` in a file, there at the top or in a
table `[scheduler]`, the class's name without Config or Options. Imports nothing of ours.
"""

import argparse
import dataclasses
import difflib
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")


@dataclass(frozen=True)
class Decision:
    """Something the program settled by itself: what, to which value, and why."""

    name: str
    value: str
    reason: str


@dataclass(frozen=True)
class Option:
    """How one field is shown and read; see `option`."""

    help: str
    flag: str | None
    aliases: tuple[str, ...]
    choices: tuple[Any, ...] | None
    metavar: str | None
    parse: Callable[[str], Any] | None
    positional: bool


def option(
    default: T,
    *,
    help: str,
    flag: str | None = None,
    aliases: Sequence[str] = (),
    choices: Sequence[Any] | None = None,
    metavar: str | None = None,
    parse: Callable[[str], Any] | None = None,
    positional: bool = False,
) -> T:
    """A dataclass field that users may set.

    Its type is bool, int, float, str, Path or a Literal of them, one of these or None, or
    tuple[X, ...] (several values after one flag, or the flag several times).

    flag: instead of `--` and the field's name; aliases: more flags. choices: the only values.
    parse: makes a value from text, as `size` does, or raises ValueError saying what it must be.
    positional: on the command line the value stands alone, without a flag.
    """
    described = Option(
        help,
        flag,
        tuple(aliases),
        None if choices is None else tuple(choices),
        metavar,
        parse,
        positional,
    )
    return dataclasses.field(default=default, metadata={"option": described})


_BINARY = {"TiB": 2**40, "GiB": 2**30, "MiB": 2**20, "KiB": 2**10, "B": 1}
_DECIMAL = {"TB": 10**12, "GB": 10**9, "MB": 10**6, "kB": 10**3, "": 1}


def size(text: str) -> int:
    """Bytes: "4GiB" is 4 * 2^30, "4GB" is 4 * 10^9, "4096" is itself; rounded down."""
    units = {name.lower(): unit for name, unit in (_BINARY | _DECIMAL).items()}
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text.lower(), re.ASCII)
    if match is None or match[2] not in units:
        raise ValueError("must be a size such as 4GiB (2^30 bytes each), 512MB (10^6) or 4096")
    return int(Fraction(match[1]) * units[match[2]])


def format_size(count: int) -> str:
    """Bytes in the largest binary unit that they fill, to two decimals."""
    name = next((name for name, unit in _BINARY.items() if count >= unit), "B")
    return f"{count / _BINARY[name]:.2f}".rstrip("0").rstrip(".") + f" {name}"


def add_arguments(
    parser: argparse.ArgumentParser, *classes: type[Any], flagged: Collection[str] = ()
) -> None:
    """Give `parser` a group for each Config, titled by the first line of its docstring.

    flagged: fields that have a flag here even if they are positional elsewhere.
    What is given goes into the namespace under names that only `collect` knows.
    """
    for cls in classes:
        title, _, description = inspect.cleandoc(cls.__doc__ or cls.__name__).partition("\n")
        group = parser.add_argument_group(title.rstrip("."), description.strip() or None)
        for field in _fields(cls):
            _add_argument(group, field, field.option.positional and field.name not in flagged)


def add_command(
    commands: Any,
    run: Callable[[argparse.Namespace], int],
    *configs: type[Any],
    name: str | None = None,
    flagged: tuple[str, ...] = (),
) -> argparse.ArgumentParser:
    """A command that calls `run` with its options, and is described by its docstring.

    commands: what `ArgumentParser.add_subparsers` returned. configs: whose options it has, and then
    a file of them, for `collect`. flagged: see `add_arguments`.
    """
    command: argparse.ArgumentParser = commands.add_parser(
        name or run.__name__, help=run.__doc__, description=run.__doc__
    )
    command.set_defaults(run=run)
    if configs:
        command.add_argument(
            "--config", type=Path, metavar="FILE", help="TOML file with any of these options"
        )
        add_arguments(command, *configs, flagged=flagged)
    return command


def collect(namespace: argparse.Namespace, file: Path | None, *classes: type[Any]) -> list[Any]:
    """One instance of each Config: its defaults, over them the TOML file, over it the command line.

    namespace: from a parser that `add_arguments` prepared with these classes. ValueError on an
    unknown key or a wrong value in the file, and on what a Config refuses, saying where it was set.
    """
    fields = [field for cls in classes for field in _fields(cls)]
    written = _read(file, fields) if file is not None else {}
    instances = []
    for cls in classes:
        values: dict[str, Any] = {}
        given = []
        for field in _fields(cls):
            if hasattr(namespace, field.place):
                value = getattr(namespace, field.place)
                values[field.name] = tuple(value) if field.many else value
                given.append(f"{field.key} on the command line")
            elif field.place in written:
                values[field.name] = written[field.place]
                given.append(f"{field.key} in {file}")
        try:
            instances.append(cls(**values))
        except ValueError as error:
            set_by = f" (set: {', '.join(given)})" if given else ""
            raise ValueError(f"{error}{set_by}") from error
    return instances


def to_arguments(config: Any) -> list[str]:
    """The command line that gives this instance of a Config; what has its default is left out."""
    found: list[str] = []
    for field in _fields(type(config)):
        value, flag = getattr(config, field.name), field.flags[0]
        if value == field.default:
            continue
        if field.option.positional:
            found.extend(map(str, value) if field.many else [str(value)])
        elif field.scalar is bool:
            found.append(flag if value else flag.replace("--", "--no-", 1))
        elif field.many:
            found.extend([flag, *map(str, value)])
        else:
            found.append(f"{flag}={value}")
    return found


def print_decisions(decisions: Iterable[Decision], console: "Console | None" = None) -> None:
    """A table of what was decided and why; to standard output unless a console is given."""
    from rich.console import Console
    from rich.table import Table

    table = Table("decision", "value", "reason", box=None)
    for decision in decisions:
        table.add_row(decision.name, decision.value, decision.reason)
    (console or Console()).print(table)


@dataclass(frozen=True)
class _Field:
    """An option with its annotation taken apart: scalar is the type of one value, many: a tuple."""

    section: str
    name: str
    scalar: type
    many: bool
    choices: tuple[Any, ...] | None
    default: Any
    option: Option

    @property
    def place(self) -> str:
        return f"{self.section}.{self.name}"

    @property
    def flags(self) -> tuple[str, ...]:
        main = self.option.flag or "--" + self.name.replace("_", "-")
        return (main, *self.option.aliases)

    @property
    def key(self) -> str:
        return self.flags[0].lstrip("-")

    @property
    def expected(self) -> str:
        if self.choices is not None:
            return f"one of {', '.join(map(str, self.choices))}"
        return _EXPECTED[self.scalar]

    @property
    def metavar(self) -> str:
        if self.option.metavar is not None:
            return self.option.metavar
        if self.choices is not None:
            return "{" + ",".join(map(str, self.choices)) + "}"
        if self.option.positional:
            return self.name.upper()
        return "VALUE" if self.option.parse is not None else _METAVARS[self.scalar]


_EXPECTED = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    Path: "a path",
}
_METAVARS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}


def _fields(cls: type[Any]) -> list[_Field]:
    hints = typing.get_type_hints(cls)
    name = re.sub("(Config|Options)$", "", cls.__name__)
    section = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()
    return [
        _Field(section, f.name, *_take_apart(hints[f.name], described), f.default, described)
        for f in dataclasses.fields(cls)
        if (described := f.metadata.get("option")) is not None
    ]


def _take_apart(hint: Any, described: Option) -> tuple[type, bool, tuple[Any, ...] | None]:
    """The scalar type, whether there are many, and the choices, of an annotation."""
    many, choices = False, described.choices
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = [a for a in typing.get_args(hint) if a is not type(None)]
    if typing.get_origin(hint) is tuple:
        hint, ellipsis = typing.get_args(hint)
        assert ellipsis is ..., "a tuple option is tuple[X, ...]"
        many = True
    if typing.get_origin(hint) is typing.Literal:
        choices = choices or typing.get_args(hint)
        hint = type(choices[0])
    assert hint in _EXPECTED, f"an option cannot be of type {hint}"
    return hint, many, choices


def _add_argument(group: Any, field: _Field, positional: bool) -> None:
    settings: dict[str, Any] = {"default": argparse.SUPPRESS, "help": _help(field)}
    if field.scalar is bool:
        group.add_argument(
            *field.flags, dest=field.place, action=argparse.BooleanOptionalAction, **settings
        )
        return
    settings["type"] = lambda text: _from_text(field, text)
    settings["metavar"] = field.metavar
    if positional:
        group.add_argument(field.place, nargs="*" if field.many else "?", **settings)
    else:
        if field.many:
            settings |= {"nargs": "+", "action": "extend"}
        group.add_argument(*field.flags, dest=field.place, **settings)


def _help(field: _Field) -> str:
    default = field.default
    if default is None or default == () or default == "":
        shown = ""
    elif isinstance(default, bool):
        shown = " (default: on)" if default else " (default: off)"
    elif field.option.parse is size:
        shown = f" (default: {format_size(default)})"
    elif field.many:
        shown = f" (default: {' '.join(map(str, default))})"
    else:
        shown = f" (default: {default})"
    return (field.option.help + shown).replace("%", "%%")


def _from_text(field: _Field, text: str) -> Any:
    """One value from the command line; argparse puts the flag before the message."""
    try:
        value = field.option.parse(text) if field.option.parse else _scalar(field, text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {error}") from error
    if field.choices is not None and value not in field.choices:
        raise argparse.ArgumentTypeError(f"{text!r} must be {field.expected}")
    return value


def _scalar(field: _Field, text: str) -> Any:
    try:
        return field.scalar(text)
    except ValueError:
        raise ValueError(f"must be {field.expected}") from None


def _from_toml(field: _Field, value: Any) -> Any:
    """One value from a file. ValueError saying what it must be."""
    if field.option.parse is not None and isinstance(value, str):
        return field.option.parse(value)
    if field.scalar is Path and isinstance(value, str):
        value = Path(value)
    elif field.scalar is float and type(value) is int:
        value = float(value)
    fits = isinstance(value, field.scalar) and (field.scalar is bool or not isinstance(value, bool))
    if not fits or (field.choices is not None and value not in field.choices):
        raise ValueError(f"must be {field.expected}")
    return value


def _read(file: Path, fields: list[_Field]) -> dict[str, Any]:
    """The file's values by `_Field.place`."""
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{file} is not TOML: {error}") from error
    everywhere = {flag.lstrip("-"): field for field in fields for flag in field.flags}
    sections = {field.section for field in fields}
    values: dict[str, Any] = {}
    for name, content in table.items():
        if isinstance(content, dict):
            if name not in sections:
                raise ValueError(f"unknown table [{name}] in {file}{_nearest(name, sections)}")
            known = {key: field for key, field in everywhere.items() if field.section == name}
            entries, where = content, f"{file} [{name}]"
        else:
            known, entries, where = everywhere, {name: content}, str(file)
        for key, value in entries.items():
            field = known.get(key.replace("_", "-"))
            if field is None:
                raise ValueError(f"unknown key {key!r} in {where}{_nearest(key, known)}")
            if field.place in values:
                raise ValueError(f"{field.key} is set twice in {file}")
            values[field.place] = _value(field, key, value, where)
    return values


def _value(field: _Field, key: str, value: Any, where: str) -> Any:
    if field.many and not isinstance(value, list):
        raise ValueError(f"{key}={value!r} in {where} must be a list")
    try:
        if field.many:
            return tuple(_from_toml(field, one) for one in value)
        return _from_toml(field, value)
    except ValueError as error:
        raise ValueError(f"{key}={value!r} in {where} {error}") from None


def _nearest(name: str, known: Iterable[str]) -> str:
    """What to tell who wrote `name`: the names like it, or all there are."""
    names = sorted(known)
    near = difflib.get_close_matches(name.replace("_", "-"), names, n=3)
    return f"; nearest: {', '.join(near)}" if near else f"; there are: {', '.join(names)}"
