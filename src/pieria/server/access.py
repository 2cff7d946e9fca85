"""Who may ask for what: hosts and origins, keys and their scopes.

Knows headers and keys. Does not know what routes do, nor how errors go out.
"""

import ipaddress
import logging
from collections.abc import Iterable
from typing import Literal
from urllib.parse import urlsplit

from pieria.clock import Clock
from pieria.server.config import ServerConfig
from pieria.server.errors import ApiError, shown
from pieria.server.keys import Key, read_keys
from pieria.server.limits import Account, Accounts

Access = Literal["public", "inference", "metrics", "admin"]
"""What a route asks for: nothing, or a key of that scope."""

Headers = Iterable[tuple[bytes, bytes]]

audit = logging.getLogger("pieria.server.audit")


class Gate:
    """Lets requests in or not. accounts: what each key has used.

    ValueError if the keys that `config` names cannot be read.
    """

    def __init__(self, config: ServerConfig, clock: Clock) -> None:
        self._config = config
        self._keys = read_keys(config)
        self.accounts = Accounts(self._keys, clock)
        names = ("localhost", config.host, *config.allowed_hosts)
        self._hosts = {name.lower() for name in names if name}
        self._origins = {origin.lower() for origin in config.allowed_origins}

    @property
    def has_admin(self) -> bool:
        """Whether any key opens admin routes."""
        return any("admin" in key.scopes for key in self._keys.all)

    @property
    def has_keys(self) -> bool:
        """Whether any route but admins' asks for one."""
        return bool(self._keys.all)

    def reload(self) -> None:
        """Read the keys anew. ValueError if they cannot be; then those of before stay valid."""
        keys = read_keys(self._config)
        before, now = ({key.name for key in of.all} for of in (self._keys, keys))
        self.accounts.update(keys)
        self._keys = keys
        audit.info(
            "keys read anew: %d; added: %s; revoked: %s",
            len(now),
            ", ".join(sorted(now - before)) or "none",
            ", ".join(sorted(before - now)) or "none",
        )

    def check_place(self, headers: Headers) -> None:
        """ApiError unless the request names this server, and comes from no foreign web page.

        A page can make its reader's browser ask any machine, under any name that its owner points
        there. Addresses are no such names.
        """
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) != 1:
            raise ApiError(400, "exactly one Host header is needed", code="invalid_host")
        host = hosts[0].decode("latin-1").lower()
        if not self._is_ours(host):
            raise ApiError(
                421,
                f"this server is not called {shown(host)}; its --allowed-hosts has its names",
                code="invalid_host",
            )
        for name, value in headers:
            if name == b"origin" and not self._is_known_origin(value.decode("latin-1"), host):
                raise ApiError(
                    403,
                    f"pages of {shown(value.decode('latin-1'))} may not use this server; its"
                    " --allowed-origins has those that may",
                    code="invalid_origin",
                )

    def admit(self, headers: Headers, access: Access) -> Account:
        """Whose request it is. ApiError 401 without a key, 403 with one of another scope."""
        key = self._keys.find(headers)
        if access != "public" and (self._keys.all or access == "admin"):
            if key is None:
                raise ApiError(
                    401,
                    "a valid API key is needed, as `Authorization: Bearer KEY`",
                    code="invalid_api_key",
                    headers={"www-authenticate": "Bearer"},
                )
            if access not in key.scopes:
                raise ApiError(
                    403,
                    f"this key opens {' and '.join(key.scopes)}, not {access}",
                    code="insufficient_scope",
                )
        return self.accounts.of(key)

    def require_any_key(self, headers: Headers) -> None:
        """ApiError 401 for who has no key, where there are keys: they learn of no route."""
        if self._keys.all:
            self.admit(headers, _any_scope(self._keys.find(headers)))

    def _is_ours(self, host: str) -> bool:
        if host in self._hosts or "*" in self._hosts:
            return True
        name = _without_port(host)
        if name in self._hosts or _is_address(name):
            return True
        _, _, parent = name.partition(".")
        return bool(parent) and f"*.{parent}" in self._hosts

    def _is_known_origin(self, origin: str, host: str) -> bool:
        """One that is allowed, or this server's own."""
        origin = origin.lower()
        if origin in self._origins or "*" in self._origins:
            return True
        try:
            return urlsplit(origin).netloc == host
        except ValueError:
            return False


def _any_scope(key: Key | None) -> Access:
    return "inference" if key is None else key.scopes[0]


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() and port.isascii() else host


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
