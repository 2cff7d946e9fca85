"""How the HTTP server is set up.

Knows its own options and their bounds. Reads no file and opens no socket.
"""

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pieria.config import option, size
from pieria.engine.sampling_params import MAX_LOGPROBS
from pieria.logs import LogFormat

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
        None, help="file of keys that `pieria keys add` made, with their scopes and limits"
    )
    admin_listen: str | None = option(
        None,
        metavar="ADDRESS",
        help="where admin routes are: unix:PATH, or a second loopback HOST:PORT; default: nowhere",
    )
    profile_dir: Path | None = option(
        None, help="where /start_profile and /stop_profile leave traces; default: refused"
    )
    audit_log: Path | None = option(
        None, help="file to which each admin request adds a line; default: the log"
    )
    allowed_hosts: tuple[str, ...] = option(
        (),
        metavar="NAME",
        help="names besides localhost and addresses that clients may call this server by;"
        " *.NAME takes one more part, * any",
    )
    allowed_origins: tuple[str, ...] = option(
        (),
        metavar="ORIGIN",
        help="web pages that may use this server, as https://NAME; * any; default: none",
    )
    ssl_certfile: Path | None = option(None, help="certificate chain in PEM; turns TLS on")
    ssl_keyfile: Path | None = option(None, help="its key; default: in the same file")
    ssl_ca_certs: Path | None = option(
        None, help="authorities one of which must have signed each client's certificate"
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
    stream_interval: int = option(
        1, help="tokens of a piece of a streamed answer, after the first; more cost less"
    )
    max_queued_requests: int = option(
        256, help="choices that may wait for the engine; a request beyond them is told to come back"
    )
    max_queued_tokens: int | None = option(
        None, help="most tokens of prompts that may wait for the engine; default: no limit"
    )
    request_timeout_seconds: float | None = option(
        None, help="longest that a request may take, if it does not say; default: no limit"
    )
    max_logprobs: int = option(20, help="most alternatives per token that a request may ask for")
    max_body_bytes: int = option(
        32 * 2**20, parse=size, metavar="SIZE", help="largest request body"
    )
    max_connections: int = option(2048, help="connections beyond these are closed at once")
    header_timeout_seconds: float = option(10.0, help="longest that a request's head may take")
    body_timeout_seconds: float = option(60.0, help="longest that a request's body may take")
    prepare_timeout_seconds: float = option(
        10.0, help="longest that template and tokenizer may work on one request"
    )
    send_timeout_seconds: float = option(
        60.0, help="a client that takes nothing of its answer for so long is cut off"
    )
    keep_alive_seconds: int = option(75, help="how long an idle connection is kept")
    health_timeout_seconds: float = option(
        30.0, help="/health fails when a busy engine made no progress for so long"
    )
    engine_timeout_seconds: float = option(
        120.0, help="a busy engine that made no progress for so long is replaced"
    )
    shutdown_timeout_seconds: float = option(
        60.0, help="how long running requests may go on after a signal to stop"
    )
    log_level: LogLevel = option("info", help="least severe messages to log")
    otlp_traces_endpoint: str | None = option(
        None,
        metavar="URL",
        help="where OpenTelemetry spans go, over HTTP, such as http://localhost:4318/v1/traces;"
        " default: where OTEL_EXPORTER_OTLP_ENDPOINT says",
    )
    log_format: LogFormat = option("text", help="lines for people, or an object a line")

    def __post_init__(self) -> None:
        for name, low, high in (
            ("port", 0, 65535),
            ("stream_interval", 1, 2**16),
            ("max_queued_requests", 0, 2**31 - 1),
            ("max_logprobs", 0, MAX_LOGPROBS),
            ("max_body_bytes", 1024, 2**31 - 1),
            ("max_connections", 1, 2**20),
            ("header_timeout_seconds", 0.1, 3600),
            ("body_timeout_seconds", 0.1, 86400),
            ("prepare_timeout_seconds", 0.1, 3600),
            ("send_timeout_seconds", 0.1, 86400),
            ("keep_alive_seconds", 1, 86400),
            ("max_queued_tokens", 1, 2**31 - 1),
            ("request_timeout_seconds", 0.1, 86400),
            ("health_timeout_seconds", 0.1, 86400),
            ("engine_timeout_seconds", 1, 86400),
            ("shutdown_timeout_seconds", 0, 86400),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name}={value} must be from {low} to {high}")
        if not (self.api_key or self.api_key_file or is_loopback(self.host)):
            raise ValueError(
                f"host={self.host!r} can be reached from other machines, and no API key is set;"
                " set api_key or api_key_file, or listen on 127.0.0.1"
            )
        if self.ssl_certfile is None and (self.ssl_keyfile or self.ssl_ca_certs):
            raise ValueError("ssl_keyfile and ssl_ca_certs mean nothing without ssl_certfile")
        if self.admin_listen is not None:
            self._check_admin(self.admin_listen)
            if self.api_key_file is None:
                raise ValueError(
                    "admin_listen needs a key of scope admin in api_key_file; do: pieria keys add"
                    " NAME --scope admin --api-key-file FILE"
                )

    @property
    def admin_address(self) -> Path | tuple[str, int] | None:
        """A Unix socket's path, or host and port."""
        if self.admin_listen is None:
            return None
        kind, _, path = self.admin_listen.partition(":")
        if kind == "unix":
            return Path(path)
        host, _, port = self.admin_listen.rpartition(":")
        return host.removeprefix("[").removesuffix("]"), int(port)

    def _check_admin(self, address: str) -> None:
        if re.fullmatch(r"unix:.+", address):
            return
        match = re.fullmatch(r"(.+):([0-9]{1,5})", address)
        host = "" if match is None else match[1].removeprefix("[").removesuffix("]")
        if match is None or int(match[2]) > 65535 or not is_loopback(host):
            raise ValueError(
                f"admin_listen={address!r} must be unix:PATH, or a loopback address and a port such"
                " as 127.0.0.1:8001"
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
