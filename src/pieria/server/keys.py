"""Who may ask: API keys, kept only as digests.

Knows the Authorization header. Does not know routes or responses.
"""

import hmac
import stat
from collections.abc import Iterable
from hashlib import sha256

from pieria.server.config import ServerConfig


class Keys:
    """The keys that open routes of access "key". Without any, those are open to all who connect."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = tuple(sha256(key.encode()).digest() for key in keys)

    def admit(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether these headers carry one of the keys. Takes equally long whichever it is."""
        if not self._digests:
            return True
        given = [value for name, value in headers if name == b"authorization"]
        if len(given) != 1:
            return False
        scheme, _, key = given[0].partition(b" ")
        digest = sha256(key.strip()).digest()
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return scheme.lower() == b"bearer" and any(matches)


def read_keys(config: ServerConfig) -> Keys:
    """The keys that `config` names.

    ValueError on a key that cannot be sent, or a file that others may read.
    """
    keys = list(config.api_key)
    path = config.api_key_file
    if path is not None:
        try:
            mode = path.stat().st_mode
            lines = path.read_text(encoding="ascii").split("\n")
        except OSError as error:
            raise ValueError(f"api_key_file: cannot read {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"api_key_file: {path} must be ASCII text, one key a line") from error
        if mode & stat.S_IRWXO:
            raise ValueError(f"api_key_file: every user may open {path}; do: chmod 600 {path}")
        from_file = [line.strip() for line in lines if line.strip()]
        if not from_file:
            raise ValueError(f"api_key_file: {path} holds no key")
        keys += from_file
    for number, key in enumerate(keys, start=1):
        if not (key.isascii() and key.isprintable() and key and " " not in key):
            raise ValueError(f"API key {number} must be printable ASCII without spaces")
    return Keys(keys)
