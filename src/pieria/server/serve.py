"""The life of the HTTP process: listen, load, serve, drain on a signal or fail with the engine.

Knows sockets, signals and the order of things. Starting and ending the engine is the caller's.
"""

import asyncio
import logging
import signal
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import uvicorn

from pieria import logs
from pieria.clock import Clock
from pieria.server import listen, tls, traces
from pieria.server.access import Gate, audit
from pieria.server.api import create_app
from pieria.server.config import ServerConfig
from pieria.server.connection import Connection
from pieria.server.edge import MAX_HEADER_BYTES
from pieria.server.reload import Reload
from pieria.server.state import Served, ServerState

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.05
FLUSH_SECONDS = 5
"""How long clients have to take the last bytes of their answers."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


async def serve(
    state: ServerState,
    config: ServerConfig,
    clock: Clock,
    load: Callable[[], Awaitable[Served]],
) -> int:
    """Run until SIGTERM or SIGINT; the exit status: 0 after that, 1 when the engine failed.

    load: returns when the engine can take requests. ValueError if the address, the keys or the
    model cannot be used as they were given.
    """
    server = Server(state, config, clock)
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, server.stop)
    loop.add_signal_handler(signal.SIGHUP, server.reload)
    try:
        return await server.run(load)
    finally:
        for number in (*STOP_SIGNALS, signal.SIGHUP):
            loop.remove_signal_handler(number)


class Server:
    """One listening server. url: where; port 0 is replaced by the one that was free.

    admin_url: where admin routes are; None if nowhere. ValueError if addresses, keys or
    certificates cannot be used.
    """

    def __init__(self, state: ServerState, config: ServerConfig, clock: Clock) -> None:
        self._state = state
        self._config = config
        self._clock = clock
        self._stops = 0
        self._audit = None if config.audit_log is None else logs.to_file(config.audit_log)
        gate = Gate(config, clock)
        state.metrics.add_accounts(gate.accounts.all)
        endpoint = config.otlp_traces_endpoint
        if traces.wanted(endpoint):
            sending = traces.provider(endpoint, state.version)
            state.traces = traces.Traces(sending, state.names[0], clock)
        context = tls.context(config)
        self._reload = Reload(config, gate, context)
        self._socket = listen.on_address(config.host, config.port)
        self.url = listen.url(self._socket, "https" if context else "http")
        app = create_app(state, config, clock, gate)
        self._listeners = [(_Uvicorn(_settings(app, config, context)), self._socket)]
        self.admin_url: str | None = None
        address = config.admin_address
        if address is None:
            return
        if not gate.has_admin:
            raise ValueError(
                f"no key in {config.api_key_file} has the scope admin; do: pieria keys add NAME"
                f" --scope admin --api-key-file {config.api_key_file}"
            )
        if isinstance(address, Path):
            admin = listen.on_path(address)
        else:
            admin = listen.on_address(*address)
        self.admin_url = listen.url(admin)
        app = create_app(state, config, clock, gate, for_admins=True)
        self._listeners.append((_Uvicorn(_settings(app, config, None)), admin))

    def stop(self) -> None:
        """End when running requests are done or their time is up; called again: at once."""
        self._stops += 1

    def reload(self) -> None:
        """Read keys and certificates anew."""
        self._reload.now()

    async def run(self, load: Callable[[], Awaitable[Served]]) -> int:
        """Serve until stopped; the exit status. ValueError as `serve`. Call it once."""
        http = asyncio.gather(*(server.serve(sockets=[at]) for server, at in self._listeners))
        audit.setLevel(logging.INFO)  # however little else is logged
        if self._audit is not None:
            audit.addHandler(self._audit)
        watching = asyncio.create_task(self._reload.watch())
        loading = asyncio.ensure_future(load())
        try:
            return await self._watch(http, loading)
        finally:
            loading.cancel()
            watching.cancel()
            await asyncio.gather(loading, watching, return_exceptions=True)
            self._state.end("the server is ending")
            # Clients may take their last bytes; one that does not is cut off after FLUSH_SECONDS.
            for server, _ in self._listeners:
                server.should_exit = True
                server.force_exit = self._stops > 1
            await http
            if isinstance(self._config.admin_address, Path):
                self._config.admin_address.unlink(missing_ok=True)
            if self._state.traces is not None:
                await asyncio.to_thread(self._state.traces.close)
            if self._audit is not None:
                audit.removeHandler(self._audit)
                self._audit.close()

    async def _watch(self, http: "asyncio.Future[Any]", loading: "asyncio.Future[Served]") -> int:
        """Return when it is time to end."""
        state, clock = self._state, self._clock
        deadline = float("inf")
        while True:
            if http.done():
                logger.error("the HTTP server ended by itself")
                return 1
            if state.client.failure is not None:
                if state.client.refused:
                    raise ValueError(state.client.failure)
                logger.critical("the engine failed: %s", state.client.failure)
                return 1
            if state.served is None and loading.done():
                error = loading.exception()
                if isinstance(error, ValueError):
                    raise error
                if error is not None:
                    logger.critical("the model could not be loaded: %s", error, exc_info=error)
                    return 1
                state.served = loading.result()
                logger.info("serving %s on %s", ", ".join(state.names), self.url)
            if self._stops and not state.draining:
                state.draining = True
                deadline = clock.now() + self._config.shutdown_timeout_seconds
                logger.info("stopping; %d requests are running", len(state.in_flight))
            if self._stops > 1:
                logger.warning("stopping at once; %d requests are cut off", len(state.in_flight))
                return 0
            if state.draining and not state.in_flight:
                return 0
            if clock.now() >= deadline:
                logger.warning("%d requests did not end in time", len(state.in_flight))
                return 0
            if loading.done():
                await asyncio.sleep(TICK_SECONDS)
            else:
                await asyncio.wait([loading], timeout=TICK_SECONDS)


class _Uvicorn(uvicorn.Server):
    """Leaves signals to us: uvicorn would close the listening socket before requests are done."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _settings(app: Any, config: ServerConfig, context: ssl.SSLContext | None) -> uvicorn.Config:
    settings = uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        http=cast(Any, partial(Connection, limits=config)),
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        log_level=config.log_level,
        timeout_keep_alive=config.keep_alive_seconds,
        timeout_graceful_shutdown=FLUSH_SECONDS,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
    )
    settings.load()
    settings.ssl = context
    return settings
