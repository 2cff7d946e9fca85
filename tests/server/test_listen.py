"""Sockets: addresses, and a path that others do not open."""

import socket
import stat
from pathlib import Path

import pytest

from pieria.server import listen


def test_addresses_and_their_urls() -> None:
    with listen.on_address("127.0.0.1", 0) as made:
        port = made.getsockname()[1]
        assert listen.url(made) == f"http://127.0.0.1:{port}"
        assert listen.url(made, "https") == f"https://127.0.0.1:{port}"
        with pytest.raises(ValueError, match=f"cannot listen on host='127.0.0.1' port={port}: "):
            listen.on_address("127.0.0.1", port)


def test_a_path_is_for_its_owner_and_group(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with listen.on_path(path) as made:
        assert stat.S_IMODE(path.stat().st_mode) & 0o007 == 0
        assert listen.url(made) == f"unix:{path}"
        with pytest.raises(ValueError, match=r"cannot listen on .*admin\.sock: "):
            listen.on_path(path)
    # Nobody listens there any more: it was left behind.
    listen.on_path(path).close()
    path.unlink()
    path.write_text("precious")
    with pytest.raises(ValueError, match="cannot listen on"):
        listen.on_path(path)
    assert path.read_text() == "precious"


def test_a_path_that_is_too_long() -> None:
    with pytest.raises(ValueError, match="cannot listen on"):
        listen.on_path(Path("/" + "x" * 200))
    assert socket.AF_UNIX
