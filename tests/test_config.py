"""Options against argparse and TOML: what is given comes back, what is wrong is named."""

import argparse
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pieria.config import (
    Decision,
    add_arguments,
    collect,
    format_size,
    option,
    print_decisions,
    size,
    to_arguments,
)


@dataclass(frozen=True)
class EngineConfig:
    """The engine.

    How much it does at once.
    """

    model: str = option("", positional=True, help="what to run")
    max_num_seqs: int = option(128, help="most requests in one step, 100% of them")
    fraction: float = option(0.5, flag="--memory-fraction", aliases=("--mem",), help="a share")
    cache_bytes: int | None = option(None, parse=size, metavar="SIZE", help="size of the cache")
    buffer_bytes: int = option(2**20, parse=size, help="size of a buffer")
    caching: bool = option(True, help="reuse")
    mode: Literal["fast", "exact"] = option("fast", help="how")
    unlisted: int = 7

    def __post_init__(self) -> None:
        if self.max_num_seqs < 1:
            raise ValueError(f"max_num_seqs={self.max_num_seqs} must be at least 1")


@dataclass(frozen=True)
class HttpServerConfig:
    """The server"""

    port: int = option(8000, help="where it listens")
    served_model_name: tuple[str, ...] = option((), help="names to answer to")
    api_key: str | None = option(None, help="who may ask")
    level: int = option(2, choices=(1, 2, 3), help="how much is said")
    log: Path | None = option(None, help="where to write")
    debug: bool = option(False, help="say more")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="p")
    add_arguments(made, EngineConfig, HttpServerConfig)
    return made


def read(line: str = "", file: Path | None = None) -> Any:
    return collect(parser().parse_args(line.split()), file, EngineConfig, HttpServerConfig)


def toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "p.toml"
    path.write_text(text)
    return path


def test_nothing_given_leaves_the_defaults() -> None:
    assert read() == [EngineConfig(), HttpServerConfig()]


def test_every_kind_of_option_from_the_command_line() -> None:
    engine, server = read(
        "m --max-num-seqs 3 --mem 0.25 --cache-bytes 2GiB --no-caching --mode exact"
        " --served-model-name a b --api-key k --level 3 --log x/y --debug"
    )
    assert engine == EngineConfig("m", 3, 0.25, 2 * 2**30, caching=False, mode="exact")
    assert server == HttpServerConfig(8000, ("a", "b"), "k", 3, Path("x/y"), True)


def test_what_stands_alone_has_a_flag_where_that_is_wanted() -> None:
    flagged = argparse.ArgumentParser()
    add_arguments(flagged, EngineConfig, flagged=("model",))
    [found] = collect(flagged.parse_args(["--model", "m"]), None, EngineConfig)
    assert found == EngineConfig("m")
    with pytest.raises(SystemExit):
        flagged.parse_args(["m"])


@given(
    st.sampled_from(["", "m"]),
    st.integers(1),
    st.floats(0, 1),
    st.none() | st.integers(0, 2**40),
    st.booleans(),
    st.sampled_from(["fast", "exact"]),
    st.lists(st.sampled_from(["a", "b"])),
    st.booleans(),
)
def test_a_config_becomes_the_command_line_that_gives_it(
    model: str,
    seqs: int,
    fraction: float,
    cache: int | None,
    caching: bool,
    mode: Literal["fast", "exact"],
    names: list[str],
    debug: bool,
) -> None:
    engine = EngineConfig(model, seqs, fraction, cache, caching=caching, mode=mode)
    server = HttpServerConfig(served_model_name=tuple(names), debug=debug)
    line = [*to_arguments(engine), *to_arguments(server)]
    found = collect(parser().parse_args(line), None, EngineConfig, HttpServerConfig)
    assert found == [engine, server]


def test_what_has_its_default_is_left_out() -> None:
    assert to_arguments(EngineConfig(fraction=0.25)) == ["--memory-fraction=0.25"]
    assert to_arguments(EngineConfig("m", caching=False)) == ["m", "--no-caching"]
    assert to_arguments(HttpServerConfig()) == []


def test_a_repeated_flag_adds_values() -> None:
    _, server = read("--served-model-name a b --served-model-name c")
    assert server.served_model_name == ("a", "b", "c")


def test_every_kind_of_option_from_a_file(tmp_path: Path) -> None:
    file = toml(
        tmp_path,
        """
        model = "m"
        mem = 1
        buffer_bytes = 4096
        [engine]
        max-num-seqs = 3
        cache_bytes = "2GiB"
        caching = false
        mode = "exact"
        [http-server]
        served-model-name = ["a", "b"]
        log = "x/y"
        debug = true
        """,
    )
    engine, server = read(file=file)
    assert engine == EngineConfig("m", 3, 1.0, 2 * 2**30, 4096, caching=False, mode="exact")
    assert isinstance(engine.fraction, float)
    assert server == HttpServerConfig(served_model_name=("a", "b"), log=Path("x/y"), debug=True)


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    file = toml(tmp_path, "[engine]\nmax-num-seqs = 3\ncaching = false\nmodel = 'a'\n")
    engine, _ = read("b --max-num-seqs 5", file)
    assert (engine.model, engine.max_num_seqs, engine.caching) == ("b", 5, False)


@given(
    st.integers(1, 2**31),
    st.floats(0, 1),
    st.booleans(),
    st.lists(st.from_regex(r"[a-z][a-z0-9.]{0,9}", fullmatch=True), min_size=1),
)
def test_values_survive_the_command_line(
    count: int, fraction: float, caching: bool, names: list[str]
) -> None:
    switch = "--caching" if caching else "--no-caching"
    engine, server = read(
        f"--max-num-seqs {count} --memory-fraction {fraction!r} {switch}"
        f" --served-model-name {' '.join(names)}"
    )
    assert (engine.max_num_seqs, engine.fraction, engine.caching) == (count, fraction, caching)
    assert server.served_model_name == tuple(names)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_num_seq = 3", "unknown key 'max_num_seq' in {file}; nearest: max-num-seqs"),
        ("[engine]\nport = 3", "unknown key 'port' in {file} [engine]; there are: buffer-bytes,"),
        ("[engin]\nmode = 3", "unknown table [engin] in {file}; nearest: engine"),
        ("max-num-seqs = 'a'", "max-num-seqs='a' in {file} must be an integer"),
        ("max-num-seqs = true", "max-num-seqs=True in {file} must be an integer"),
        ("[engine]\nmem = 'a'", "mem='a' in {file} [engine] must be a number"),
        ("caching = 1", "caching=1 in {file} must be true or false"),
        ("mode = 'slow'", "mode='slow' in {file} must be one of fast, exact"),
        ("level = 9", "level=9 in {file} must be one of 1, 2, 3"),
        ("served-model-name = 'a'", "served-model-name='a' in {file} must be a list"),
        ("served-model-name = [1]", "served-model-name=[1] in {file} must be a string"),
        ("cache-bytes = '4 lbs'", "cache-bytes='4 lbs' in {file} must be a size such as"),
        ("unlisted = 1", "unknown key 'unlisted' in {file}"),
        ("mode = 'fast'\n[engine]\nmode = 'fast'", "mode is set twice in {file}"),
        ("max-num-seqs = 0", "must be at least 1 (set: max-num-seqs in {file})"),
        ("mode = ", "{file} is not TOML"),
    ],
)
def test_a_mistake_in_a_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = toml(tmp_path, text)
    with pytest.raises(ValueError, match=re.escape(message.format(file=file))):
        read(file=file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot read .*absent\.toml: No such file"):
        read(file=tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--max-num-seqs a", "argument --max-num-seqs: 'a' must be an integer"),
        ("--mem a", "argument --memory-fraction/--mem: 'a' must be a number"),
        ("--mode slow", "argument --mode: 'slow' must be one of fast, exact"),
        ("--level 9", "argument --level: '9' must be one of 1, 2, 3"),
        ("--cache-bytes 4lbs", "argument --cache-bytes: '4lbs' must be a size such as 4GiB"),
        ("--unlisted 1", "unrecognized arguments: --unlisted"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(
    capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        read(words)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_what_a_config_refuses_says_where_it_was_set() -> None:
    with pytest.raises(ValueError, match=r"at least 1 \(set: max-num-seqs on the command line\)"):
        read("--max-num-seqs 0")


def test_help_shows_groups_values_and_defaults() -> None:
    text = " ".join(parser().format_help().split())
    for part in (
        "The engine: How much it does at once.",
        "[MODEL]",
        "--max-num-seqs N most requests in one step, 100% of them (default: 128)",
        "--mem X a share (default: 0.5)",
        "--cache-bytes SIZE size of the cache --",
        "(default: 1 MiB)",
        "--caching, --no-caching reuse (default: on)",
        "--mode {fast,exact} how (default: fast)",
        "The server: --port N",
        "--log PATH",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("4GiB", 4 * 2**30),
        ("4 gib", 4 * 2**30),
        ("512MB", 512 * 10**6),
        ("1kB", 1000),
        ("1.5KiB", 1536),
        ("0.0000000001TB", 100),
        ("0.1B", 0),
        ("4096", 4096),
    ],
)
def test_sizes(text: str, count: int) -> None:
    assert size(text) == count


@pytest.mark.parametrize("text", ["", "GiB", "4G", "-1", "1e9", "4 GiB B", "٣", "4GiBs", "1.GB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a size such as 4GiB"):
        size(text)


@given(st.integers(0, 2**50))
def test_a_formatted_size_reads_back(count: int) -> None:
    assert size(format_size(count)) == pytest.approx(count, rel=0.006, abs=1)


def test_sizes_are_formatted_in_the_largest_unit_they_fill() -> None:
    sizes = {0: "0 B", 1023: "1023 B", 1024: "1 KiB", 3 * 2**29: "1.5 GiB", 2**50: "1024 TiB"}
    assert {count: format_size(count) for count in sizes} == sizes


def test_decisions_are_printed_with_their_reasons() -> None:
    console = Console(file=io.StringIO(), width=80)
    print_decisions([Decision("threads", "2", "cores it may use")], console)
    assert "threads   2      cores it may use" in console.file.getvalue()  # type: ignore[attr-defined]
