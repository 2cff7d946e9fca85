"""Where the server listens: sockets of addresses, and a Unix socket that only its owner opens.

Knows names and permissions. Does not know HTTP.
"""

import os
import socket
import stat
from pathlib import Path

BACKLOG = 2048


def on_address(host: str, port: int) -> socket.socket:
    """A bound, listening socket. ValueError if the address cannot be used."""
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, place = address[0]
        return socket.create_server(place[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise ValueError(f"cannot listen on host={host!r} port={port}: {error}") from error


def on_path(path: Path) -> socket.socket:
    """A Unix socket that only this user and its group open; one that nobody listens on is replaced.

    ValueError if the path cannot be used.
    """
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode) and not _answers(path):
            path.unlink()
        before = os.umask(0o117)
        try:
            made.bind(str(path))
        finally:
            os.umask(before)
        made.listen(BACKLOG)
    except OSError as error:
        made.close()
        raise ValueError(f"cannot listen on {path}: {error}") from error
    return made


def url(listening: socket.socket, scheme: str = "http") -> str:
    """How to call what listens there."""
    if listening.family == socket.AF_UNIX:
        return f"unix:{listening.getsockname()}"
    host, port = listening.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
