"""API keys: what each may do, and the file that keeps them, as digests only.

Knows the file's form and the Authorization header. Does not know routes, nor what a key has used.
"""

import hmac
import os
import secrets
import stat
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from typing import Literal, get_args

import msgspec

from pieria.clock import Clock
from pieria.server.config import ServerConfig

Scope = Literal["inference", "metrics", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
GIVEN_SCOPES: tuple[Scope, ...] = ("inference", "metrics")
"""What a key may do that is given as an option instead of in a file."""

PREFIX = "sk-pieria-"
"""What keys begin with, so that scanners for leaked secrets know them."""

MAX_KEYS = 1024
MAX_NAME = 64


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One key. sha256: of the secret, which has 256 random bits, so that no slow hash is needed.

    created: UTC. A limit that is None is none. requests_per_minute, tokens_per_minute (of prompts
    and answers), max_concurrent_requests: of routes for inference. weight: its share of the engine
    beside other keys' when there is not enough for all.
    """

    name: str
    sha256: str
    scopes: tuple[Scope, ...] = ("inference",)
    created: str = ""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrent_requests: int | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        name, limits = self.name, LIMITS
        if not (0 < len(name) <= MAX_NAME and name.isascii() and name.isprintable()):
            raise ValueError(f"name={name!r} must be 1 to {MAX_NAME} printable ASCII characters")
        if not self.scopes:
            raise ValueError(f"key {name!r} needs a scope; there are: {', '.join(SCOPES)}")
        if len(self.sha256) != 64 or not set(self.sha256) <= set("0123456789abcdef"):
            raise ValueError(f"key {name!r}: sha256 must be 64 hexadecimal digits")
        if not 0.01 <= self.weight <= 100:
            raise ValueError(f"key {name!r}: weight={self.weight} must be from 0.01 to 100")
        for limit in limits:
            value = getattr(self, limit)
            if value is not None and not 1 <= value <= 2**31:
                raise ValueError(f"key {name!r}: {limit}={value} must be from 1 to {2**31}")


LIMITS = ("requests_per_minute", "tokens_per_minute", "max_concurrent_requests")


class Keys:
    """All keys that are valid now. Without any, all but admin routes are open to who connects."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self.all = tuple(keys)
        self._digests = tuple(bytes.fromhex(key.sha256) for key in self.all)

    def find(self, headers: Iterable[tuple[bytes, bytes]]) -> Key | None:
        """The key that these headers carry. Takes equally long whichever it is."""
        given = [value for name, value in headers if name == b"authorization"]
        if len(given) != 1:
            return None
        scheme, _, secret = given[0].partition(b" ")
        digest = sha256(secret.strip()).digest()
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if scheme.lower() != b"bearer" or True not in matches:
            return None
        return self.all[matches.index(True)]


def read_keys(config: ServerConfig) -> Keys:
    """The keys that `config` names. ValueError on one that cannot be used."""
    keys = [_given(number, secret) for number, secret in enumerate(config.api_key, start=1)]
    if config.api_key_file is not None:
        keys += read_file(config.api_key_file)
    return Keys(keys)


def read_file(path: Path) -> list[Key]:
    """The keys in a file. ValueError if it is none, or others may open it."""
    try:
        mode = path.stat().st_mode
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"api_key_file: cannot read {path}: {error.strerror}") from error
    if mode & stat.S_IRWXO:
        raise ValueError(f"api_key_file: every user may open {path}; do: chmod 600 {path}")
    try:
        keys = msgspec.json.decode(content, type=list[Key])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"api_key_file: {path} is no file of `pieria keys`, which has no key in clear: {error}"
        ) from None
    if not 0 < len(keys) <= MAX_KEYS:
        raise ValueError(f"api_key_file: {path} holds {len(keys)} keys; 1 to {MAX_KEYS} may be")
    names = [key.name for key in keys]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"api_key_file: {path} has several keys of the name {twice[0]!r}")
    return keys


def add(
    path: Path,
    name: str,
    scopes: Sequence[Scope],
    limits: dict[str, int | None],
    clock: Clock,
    weight: float = 1.0,
) -> str:
    """Make a key and keep its digest in the file, which is made if need be; the secret, once.

    ValueError if the name is taken, or what is asked for cannot be.
    """
    secret = PREFIX + secrets.token_urlsafe(32)
    created = datetime.fromtimestamp(clock.wall(), timezone.utc).isoformat(timespec="seconds")
    key = Key(
        name, sha256(secret.encode()).hexdigest(), tuple(scopes), created, weight=weight, **limits
    )
    with _changing(path):
        keys = read_file(path) if path.exists() else []
        if name in {key.name for key in keys}:
            raise ValueError(f"{path} has a key of the name {name!r} already; revoke it first")
        _write(path, [*keys, key])
    return secret


def revoke(path: Path, name: str) -> None:
    """Take a key out of the file. ValueError if it is not there, or the last: then delete the file.

    An empty file would open the server to all, so it is never written.
    """
    with _changing(path):
        keys = read_file(path)
        left = [key for key in keys if key.name != name]
        if len(left) == len(keys):
            known = ", ".join(key.name for key in keys)
            raise ValueError(f"{path} has no key of the name {name!r}; there are: {known}")
        if not left:
            raise ValueError(f"{name!r} is the last key in {path}; add another one first")
        _write(path, left)


def _given(number: int, secret: str) -> Key:
    if not (secret.isascii() and secret.isprintable() and secret and " " not in secret):
        raise ValueError(f"API key {number} must be printable ASCII without spaces")
    return Key(f"api-key-{number}", sha256(secret.encode()).hexdigest(), GIVEN_SCOPES)


def _changing(path: Path) -> AbstractContextManager[object]:
    from filelock import FileLock

    return FileLock(path.with_name(f".{path.name}.lock"), timeout=10)


def _write(path: Path, keys: list[Key]) -> None:
    """Whole or not at all, and never readable by others, not even for a moment."""
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(keys), indent=2) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
