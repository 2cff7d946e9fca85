"""API keys: which headers open the door, what a file keeps, and which files are taken."""

import json
import re
import stat
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from pieria.clock import RealTime
from pieria.server import keys
from pieria.server.config import ServerConfig
from pieria.server.keys import Key, Keys, read_keys


def made(*secrets: str) -> Keys:
    return Keys(Key(secret, sha256(secret.encode()).hexdigest()) for secret in secrets)


def found(of: Keys, *authorizations: bytes) -> str | None:
    key = of.find([(b"host", b"x"), *((b"authorization", value) for value in authorizations)])
    return None if key is None else key.name


@pytest.mark.parametrize("value", [b"Bearer two", b"bearer two", b"BEARER  two "])
def test_any_of_the_keys_is_found(value: bytes) -> None:
    assert found(made("one", "two"), value) == "two"


@pytest.mark.parametrize(
    "value", [b"", b"two", b"Bearer", b"Bearer ", b"Bearer tw", b"Bearer twoo", b"Basic two"]
)
def test_anything_else_is_not(value: bytes) -> None:
    assert found(made("one", "two"), value) is None


def test_no_or_two_headers_are_no_key() -> None:
    assert found(made("one")) is None
    assert found(made("one"), b"Bearer one", b"Bearer one") is None
    assert found(Keys(), b"Bearer ") is None


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append(b)
        return a == b

    monkeypatch.setattr(keys.hmac, "compare_digest", compare)
    assert found(made("one", "two", "three"), b"Bearer one") == "one"
    assert len(compared) == 3


def test_keys_are_not_kept() -> None:
    config = ServerConfig(api_key=("hunter2",))
    assert "hunter2" not in repr(vars(read_keys(config)))


def add(path: Path, name: str, *scopes: Any, **limits: int | None) -> str:
    return keys.add(path, name, scopes or ("inference",), limits, RealTime())


def test_a_file_keeps_digests_and_nobody_else_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    secret = add(path, "alice", "metrics", "admin", tokens_per_minute=500)
    other = add(path, "bob")
    assert re.fullmatch(r"sk-pieria-[\w-]{43}", secret)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert secret not in path.read_text()
    read = read_keys(ServerConfig(api_key=("given",), api_key_file=path))
    assert [found(read, b"Bearer " + key.encode()) for key in ("given", secret, other)] == [
        "api-key-1",
        "alice",
        "bob",
    ]
    assert [key.scopes for key in read.all] == [
        ("inference", "metrics"),
        ("metrics", "admin"),
        ("inference",),
    ]
    assert read.all[1].tokens_per_minute == 500
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")] == ["keys.json"]


def test_what_is_revoked_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    secret = add(path, "alice")
    with pytest.raises(ValueError, match="is the last key in .*; add another one first"):
        keys.revoke(path, "alice")
    add(path, "bob")
    with pytest.raises(ValueError, match="no key of the name 'carol'; there are: alice, bob"):
        keys.revoke(path, "carol")
    keys.revoke(path, "alice")
    read = read_keys(ServerConfig(api_key_file=path))
    assert [key.name for key in read.all] == ["bob"]
    assert found(read, b"Bearer " + secret.encode()) is None
    with pytest.raises(ValueError, match="has a key of the name 'bob' already"):
        add(path, "bob")


DIGEST = "0" * 64
ALICE = {"name": "alice", "sha256": DIGEST}


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        ([ALICE], 0o604, "every user may open .*; do: chmod 600"),
        ([], 0o600, "holds 0 keys; 1 to 1024 may be"),
        (b"hunter2", 0o600, "is no file of `pieria keys`, which has no key in clear"),
        (b"\xff", 0o600, "is no file of `pieria keys`"),
        ([{**ALICE, "sha256": "abc"}], 0o600, "sha256 must be 64 hexadecimal digits"),
        ([{**ALICE, "scopes": []}], 0o600, "key 'alice' needs a scope; there are: inference, "),
        ([{**ALICE, "scopes": ["root"]}], 0o600, "Invalid enum value 'root'"),
        ([{**ALICE, "name": "a\nb"}], 0o600, "printable ASCII"),
        ([{**ALICE, "limit": 3}], 0o600, "unknown field `limit`"),
        ([{**ALICE, "tokens_per_minute": 0}], 0o600, "tokens_per_minute=0 must be from 1 to"),
        ([ALICE, ALICE], 0o600, "several keys of the name 'alice'"),
    ],
)
def test_bad_files(tmp_path: Path, content: Any, mode: int, message: str) -> None:
    path = tmp_path / "keys"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    path.chmod(mode)
    with pytest.raises(ValueError, match=message) as raised:
        read_keys(ServerConfig(api_key_file=path))
    assert "hunter2" not in str(raised.value).replace(str(path), "")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="api_key_file: cannot read .*nowhere"):
        read_keys(ServerConfig(api_key_file=tmp_path / "nowhere"))


@pytest.mark.parametrize("key", ["", "a b", "käse"])
def test_keys_that_cannot_be_sent(key: str) -> None:
    with pytest.raises(ValueError, match="API key 1 must be printable ASCII without spaces"):
        read_keys(ServerConfig(api_key=(key,)))
