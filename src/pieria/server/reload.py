"""Keys and certificates read anew when their files change, or when told to.

Knows which files there are. What is in them, `keys` and `tls` know.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterable
from pathlib import Path

from pieria.server import tls
from pieria.server.access import Gate
from pieria.server.config import ServerConfig

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0

_Stamp = tuple[tuple[int, int, int] | None, ...]


class Reload:
    """Watches until cancelled. A file that cannot be used changes nothing but the log."""

    def __init__(self, config: ServerConfig, gate: Gate, context: ssl.SSLContext | None) -> None:
        self._parts: list[tuple[list[Path], Callable[[], None]]] = []
        if config.api_key_file is not None:
            self._parts.append(([config.api_key_file], gate.reload))
        if context is not None:
            certificates = tls.files(config)
            self._parts.append((certificates, lambda: tls.load(context, config)))
        self._seen = [_stamp(paths) for paths, _ in self._parts]

    def now(self) -> None:
        """Read everything anew."""
        for number, (paths, load) in enumerate(self._parts):
            self._seen[number] = _stamp(paths)
            names = ", ".join(map(str, paths))
            try:
                load()
                logger.info("read anew: %s", names)
            except ValueError as error:
                logger.error("what was read from %s before stays in use: %s", names, error)

    async def watch(self) -> None:
        while self._parts:
            await asyncio.sleep(LOOK_SECONDS)
            if [_stamp(paths) for paths, _ in self._parts] != self._seen:
                self.now()


def _stamp(paths: Iterable[Path]) -> _Stamp:
    return tuple(_of(path) for path in paths)


def _of(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
