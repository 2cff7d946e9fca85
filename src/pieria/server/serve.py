"""The life of the HTTP process: listen, load, serve, drain on a signal or fail with the engine.

Knows sockets, signals and the order of things. Starting and ending the engine is the caller's.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import uvicorn

from pieria.clock import Clock
from pieria.server.api import create_app
from pieria.server.config import ServerConfig
from pieria.server.edge import MAX_HEADER_BYTES
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
    try:
        return await server.run(load)
    finally:
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)


class Server:
    """One listening server. url: where; port 0 is replaced by the one that was free."""

    def __init__(self, state: ServerState, config: ServerConfig, clock: Clock) -> None:
        self._state = state
        self._config = config
        self._clock = clock
        self._stops = 0
        app = create_app(state, config, clock)
        self._socket = _listen(config.host, config.port)
        self.url = _url(self._socket)
        self._http = _Uvicorn(
            uvicorn.Config(
                app,
                lifespan="off",
                ws="none",
                http="h11",
                proxy_headers=False,
                server_header=False,
                log_config=None,
                log_level=config.log_level,
                timeout_keep_alive=config.keep_alive_seconds,
                timeout_graceful_shutdown=FLUSH_SECONDS,
                h11_max_incomplete_event_size=MAX_HEADER_BYTES,
            )
        )

    def stop(self) -> None:
        """End when running requests are done or their time is up; called again: at once."""
        self._stops += 1

    async def run(self, load: Callable[[], Awaitable[Served]]) -> int:
        """Serve until stopped; the exit status. ValueError as `serve`. Call it once."""
        http = asyncio.create_task(self._http.serve(sockets=[self._socket]))
        loading = asyncio.ensure_future(load())
        try:
            return await self._watch(http, loading)
        finally:
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
            self._state.end("the server is ending")
            # Clients may take their last bytes; one that does not is cut off after FLUSH_SECONDS.
            self._http.should_exit = True
            self._http.force_exit = self._stops > 1
            await http

    async def _watch(self, http: "asyncio.Task[None]", loading: "asyncio.Future[Served]") -> int:
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
            await asyncio.sleep(TICK_SECONDS)


class _Uvicorn(uvicorn.Server):
    """Leaves signals to us: uvicorn would close the listening socket before requests are done."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listen(host: str, port: int) -> socket.socket:
    """A bound, listening socket. ValueError if the address cannot be used."""
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, place = address[0]
        return socket.create_server(place[:2], family=family, backlog=2048)
    except OSError as error:
        raise ValueError(f"cannot listen on host={host!r} port={port}: {error}") from error


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
