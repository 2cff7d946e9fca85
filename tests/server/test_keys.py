"""API keys: which headers open the door, and which files are taken."""

from pathlib import Path

import pytest

from pieria.server.config import ServerConfig
from pieria.server.keys import Keys, read_keys


def admitted(keys: Keys, *authorizations: bytes) -> bool:
    return keys.admit([(b"host", b"x"), *((b"authorization", value) for value in authorizations)])


@pytest.mark.parametrize("value", [b"Bearer two", b"bearer two", b"BEARER  two "])
def test_any_of_the_keys_is_admitted(value: bytes) -> None:
    assert admitted(Keys(["one", "two"]), value)


@pytest.mark.parametrize(
    "value", [b"", b"two", b"Bearer", b"Bearer ", b"Bearer tw", b"Bearer twoo", b"Basic two"]
)
def test_anything_else_is_not(value: bytes) -> None:
    assert not admitted(Keys(["one", "two"]), value)


def test_no_or_two_headers_are_not_admitted() -> None:
    assert not admitted(Keys(["one"]))
    assert not admitted(Keys(["one"]), b"Bearer one", b"Bearer one")


def test_without_keys_all_are() -> None:
    assert admitted(Keys([]))
    assert admitted(Keys([]), b"Bearer whatever")


def test_keys_are_not_kept() -> None:
    assert "hunter2" not in repr(vars(Keys(["hunter2"])))


def file(folder: Path, content: bytes, mode: int = 0o600) -> ServerConfig:
    path = folder / "keys"
    path.write_bytes(content)
    path.chmod(mode)
    return ServerConfig(api_key=("given",), api_key_file=path)


def test_keys_come_from_options_and_file(tmp_path: Path) -> None:
    keys = read_keys(file(tmp_path, b"first\r\n\n  second  \n", 0o640))
    assert all(admitted(keys, b"Bearer " + key) for key in (b"given", b"first", b"second"))
    assert not admitted(keys, b"Bearer ")


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        (b"hunter2", 0o604, "every user may open .*; do: chmod 600"),
        (b"\n \n", 0o600, "holds no key"),
        (b"sch\xc3\xb6n", 0o600, "must be ASCII text"),
        (b"two words", 0o600, "API key 2 must be printable ASCII without spaces"),
        (b"bell\x07", 0o600, "API key 2 must be printable"),
    ],
    ids=["mode", "empty", "letters", "space", "control"],
)
def test_bad_files(tmp_path: Path, content: bytes, mode: int, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        read_keys(file(tmp_path, content, mode))
    assert "hunter2" not in str(raised.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="api_key_file: cannot read .*nowhere"):
        read_keys(ServerConfig(api_key_file=tmp_path / "nowhere"))


@pytest.mark.parametrize("key", ["", "a b", "käse"])
def test_keys_that_cannot_be_sent(key: str) -> None:
    with pytest.raises(ValueError, match="API key 1 must be printable ASCII without spaces"):
        read_keys(ServerConfig(api_key=(key,)))
