"""How the HTTP server is set up.

Knows its own options and their bounds. Reads no file and opens no socket.
"""

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pieria.config import option, size
from pieria.engine.sampling_params import MAX_LOGPROBS

LogLevel = Literal["critical", "error", "warning", "info", "debug"]


@dataclass(frozen=True)
class ServerConfig:
    """HTTP server"""

    host: str = option(
        "127.0.0.1", help="address to listen on; one that is not loopback needs an API key"
    )
    port: int = option(8000, help="port to listen on; 0 takes a free one")
    api_key: tuple[str, ...] = option(
        (), metavar="KEY", help="keys of which clients send one as `Authorization: Bearer KEY`"
    )
    api_key_file: Path | None = option(
        None, help="file with more such keys, one a line, that others may not read"
    )
    served_model_name: tuple[str, ...] = option(
        (), metavar="NAME", help="names that requests call the model by; default: the model's own"
    )
    chat_template: Path | None = option(
        None, help="file with a Jinja chat template; default: the model's own"
    )
    generation_config: Literal["auto", "none"] = option(
        "auto", help="where sampling defaults come from: auto takes the model's, none OpenAI's"
    )
    max_queued_requests: int = option(
        256, help="choices that may wait for the engine; a request beyond them is told to come back"
    )
    max_logprobs: int = option(20, help="most alternatives per token that a request may ask for")
    max_body_bytes: int = option(
        32 * 2**20, parse=size, metavar="SIZE", help="largest request body"
    )
    body_timeout_seconds: float = option(60.0, help="longest that a request's body may take")
    keep_alive_seconds: int = option(75, help="how long an idle connection is kept")
    health_timeout_seconds: float = option(
        30.0, help="/health fails when a busy engine finished no step for so long"
    )
    shutdown_timeout_seconds: float = option(
        60.0, help="how long running requests may go on after a signal to stop"
    )
    log_level: LogLevel = option("info", help="least severe messages of the HTTP layer to log")

    def __post_init__(self) -> None:
        for name, low, high in (
            ("port", 0, 65535),
            ("max_queued_requests", 0, 2**31 - 1),
            ("max_logprobs", 0, MAX_LOGPROBS),
            ("max_body_bytes", 1024, 2**31 - 1),
            ("body_timeout_seconds", 0.1, 86400),
            ("keep_alive_seconds", 1, 86400),
            ("health_timeout_seconds", 0.1, 86400),
            ("shutdown_timeout_seconds", 0, 86400),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name}={value} must be from {low} to {high}")
        if not (self.api_key or self.api_key_file or is_loopback(self.host)):
            raise ValueError(
                f"host={self.host!r} can be reached from other machines, and no API key is set;"
                " set api_key or api_key_file, or listen on 127.0.0.1"
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
