"""What an admin may have the engine do between two steps. Torch-free until a profile is begun.

Knows the cache and the profile by name. Does not know who asked.
"""

import logging
from collections.abc import Callable

from pieria.engine.engine import Engine
from pieria.engine.messages import Command, Reply

log = logging.getLogger(__name__)


class Commands:
    """Carries commands out, one after the other, in the thread that computes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._stop_profile: Callable[[str], None] | None = None
        self._known = {
            "flush_cache": self._flush_cache,
            "start_profile": self._start_profile,
            "stop_profile": self._write_profile,
        }

    def run(self, command: Command) -> Reply:
        """What came of it; an error is told, and ends nothing."""
        try:
            return Reply(command.number, self._known[command.name](command.path))
        except (ValueError, OSError) as error:
            return Reply(command.number, error=str(error))
        except Exception as error:
            log.exception("the command %s failed", command.name)
            return Reply(command.number, error=f"it failed with {type(error).__name__}")

    def _flush_cache(self, _: str) -> str:
        return str(self._engine.scheduler.cache.flush())

    def _start_profile(self, _: str) -> str:
        if self._stop_profile is not None:
            raise ValueError("a profile is being taken already")
        from pieria.engine.profile import start

        self._stop_profile = start(self._engine)
        return ""

    def _write_profile(self, path: str) -> str:
        if self._stop_profile is None:
            raise ValueError("no profile is being taken")
        stop, self._stop_profile = self._stop_profile, None
        stop(path)
        return path
