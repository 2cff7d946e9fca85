"""The life of a server: listening before it is ready, draining, ending, failing with its engine."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from pieria.clock import RealTime
from pieria.server import keys, reload
from pieria.server.serve import Server, serve
from pieria.server.state import Served
from tests.server.fakes import LiveServer, Toy, chat, until

CHAT = "/v1/chat/completions"


class Stream:
    """A streaming request in a thread of its own; text: what has come."""

    def __init__(self, url: str, **fields: Any) -> None:
        self.text = ""
        self.status = 0
        self.broken: Exception | None = None
        self._fields = fields
        self._url = url
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        body = chat(stream=True, **self._fields)
        try:
            with httpx.stream("POST", self._url + CHAT, json=body, timeout=30) as answer:
                self.status = answer.status_code
                for text in answer.iter_text():
                    self.text += text
        except httpx.TransportError as error:
            self.broken = error

    def join(self) -> str:
        self._thread.join(timeout=30)
        assert not self._thread.is_alive()
        return self.text


def test_it_listens_before_the_model_is_loaded(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pieria.server")
    toy = Toy()
    go = threading.Event()

    async def load() -> Served:
        while not go.is_set():
            await asyncio.sleep(0.005)
        return toy.served

    with LiveServer(toy, load, wait=False) as live, httpx.Client(base_url=live.url) as http:
        assert http.get("/health").json() == {"status": "starting"}
        assert http.get("/ready").status_code == 503
        early = http.post(CHAT, json=chat())
        assert (early.status_code, early.headers["retry-after"]) == (503, "5")
        assert live.url not in caplog.text
        go.set()
        until(lambda: toy.state.served is not None)
        assert http.get("/ready").status_code == 200
        assert http.post(CHAT, json=chat()).status_code == 200
        until(lambda: f"serving toy on {live.url}" in caplog.text)
    assert live.status == 0


def test_a_model_that_cannot_be_loaded_ends_the_server(caplog: pytest.LogCaptureFixture) -> None:
    async def load() -> Served:
        raise RuntimeError("a bad sector")

    with LiveServer(Toy(), load, wait=False) as live:
        assert live.join() == 1
    assert "the model could not be loaded: a bad sector" in caplog.text


def test_a_model_that_cannot_be_served_as_asked_is_told_to_who_asked() -> None:
    async def load() -> Served:
        raise ValueError("config.json: no such architecture")

    toy = Toy()
    with pytest.raises(ValueError, match=r"config\.json: no such architecture"):
        asyncio.run(Server(toy.state, toy.config, toy.clock).run(load))


def test_settings_that_the_engine_refuses_are_told_to_who_gave_them() -> None:
    async def load() -> Served:
        await asyncio.sleep(3600)
        raise AssertionError

    toy = Toy()
    toy.client.failure, toy.client.refused = "no page of the cache fits", True
    with pytest.raises(ValueError, match="no page of the cache fits"):
        asyncio.run(Server(toy.state, toy.config, toy.clock).run(load))


def test_draining_finishes_what_runs_and_takes_nothing_new() -> None:
    toy = Toy("x" * 20)
    toy.client.hold_after = 5
    with LiveServer(toy) as live, httpx.Client(base_url=live.url) as http:
        running = Stream(live.url)
        until(lambda: "x" in running.text)
        live.server.stop()
        until(lambda: toy.state.draining)
        assert http.get("/ready").json() == {"status": "draining"}
        assert http.get("/health").status_code == 200
        late = http.post(CHAT, json=chat())
        assert (late.status_code, late.headers["retry-after"]) == (503, "5")
        toy.client.hold_after = None
        assert running.join().endswith("data: [DONE]\n\n")
        assert live.join() == 0
    assert toy.client.aborted == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(live.url)


def test_draining_has_an_end() -> None:
    toy = Toy("x" * 20, shutdown_timeout_seconds=0.2)
    toy.client.hold_after = 5
    with LiveServer(toy) as live:
        running = Stream(live.url)
        until(lambda: "x" in running.text)
        live.server.stop()
        assert live.join() == 0
        last = running.join().split("\n\n")[-2]
    assert json.loads(last.removeprefix("data: "))["error"]["message"] == "the server is ending"
    assert len(toy.client.aborted) == 1


def test_a_second_stop_ends_at_once() -> None:
    toy = Toy("x" * 20)
    toy.client.hold_after = 5
    with LiveServer(toy) as live:
        running = [Stream(live.url) for _ in range(3)]
        until(lambda: all("x" in one.text for one in running))
        live.server.stop()
        live.server.stop()
        assert live.join() == 0
        for one in running:
            assert "[DONE]" not in one.join()
    assert len(toy.client.aborted) == 3


def test_a_stop_while_loading_ends_the_loading() -> None:
    cancelled = threading.Event()

    async def load() -> Served:
        try:
            await asyncio.sleep(3600)
        finally:
            cancelled.set()
        raise AssertionError

    with LiveServer(Toy(), load, wait=False) as live:
        until(lambda: httpx.get(live.url + "/health").status_code == 200)
        live.server.stop()
        assert live.join() == 0
    assert cancelled.is_set()


def test_the_server_fails_with_its_engine(caplog: pytest.LogCaptureFixture) -> None:
    toy = Toy("x" * 20)
    toy.client.hold_after = 5
    with LiveServer(toy) as live:
        running = Stream(live.url)
        until(lambda: "x" in running.text)
        toy.client.failure = "out of memory in layer 3"
        assert live.join() == 1
        text = running.join()
    last = json.loads(text.split("\n\n")[-2].removeprefix("data: "))
    assert last["error"]["type"] == "server_error"
    assert "layer" not in text
    assert "the engine failed: out of memory in layer 3" in caplog.text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_a_client_that_leaves_takes_all_its_choices_along(path: str, stream: bool) -> None:
    toy = Toy("x" * 20)
    toy.client.hold_after = 3
    prompts = 1 if path == CHAT else 2
    body = chat(n=4) if path == CHAT else {"model": "toy", "prompt": ["a", "b"], "n": 4}
    with LiveServer(toy) as live:
        leaving = socket.create_connection(live.server._socket.getsockname())
        content = json.dumps({**body, "stream": stream}).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        leaving.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
        until(lambda: toy.client.in_flight == 4 * prompts)
        if stream:
            assert leaving.recv(15) == b"HTTP/1.1 200 OK"
        leaving.close()
        until(lambda: toy.client.in_flight == 0)
        assert len(toy.client.aborted) == 4 * prompts
        until(lambda: not toy.state.in_flight)


def test_many_streams_at_once_and_one_that_leaves() -> None:
    toy = Toy("abcdefgh" * 4)
    with LiveServer(toy) as live:
        streams = [Stream(live.url, content=f"number {i}") for i in range(32)]
        texts = [stream.join() for stream in streams]
        assert all(stream.broken is None for stream in streams)
    for text in texts:
        data = [json.loads(one[6:]) for one in text.split("\n\n") if "[DONE]" not in one and one]
        said = "".join(c["choices"][0]["delta"].get("content", "") for c in data)
        assert said == "abcdefgh" * 4
    assert toy.client.in_flight == 0


def raw(live: LiveServer, data: bytes) -> bytes:
    """What the server answers to these bytes; nothing if it hangs up before it has read them."""
    answer = b""
    with (
        socket.create_connection(live.server._socket.getsockname(), timeout=20) as connection,
        contextlib.suppress(ConnectionError),
    ):
        connection.sendall(data)
        with contextlib.suppress(OSError):  # it may be gone already
            connection.shutdown(socket.SHUT_WR)
        while piece := connection.recv(65536):
            answer += piece
    return answer


def test_what_is_not_http_hurts_nobody() -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    with LiveServer(Toy()) as live:
        for data in (
            b"\x16\x03\x01\x02\x00\x01\x00",
            b"GET /health\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            head + b"content-length: -1\r\n\r\n",
            head + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab",
            head + b"transfer-encoding: chunked\r\n\r\nZZ\r\n",
            b"GET /health HTTP/1.1\r\nhost: localhost\r\nbig: " + b"x" * 10**6,
        ):
            answer = raw(live, data)
            assert answer == b"" or answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 431")), data[:80]
        assert httpx.get(live.url + "/health").json() == {"status": "ok"}


def test_a_body_too_large_is_refused_whether_announced_or_not() -> None:
    def pieces() -> Any:
        for _ in range(64):
            yield b" " * 65536

    with LiveServer(Toy(max_body_bytes=2**20)) as live, httpx.Client(base_url=live.url) as http:
        for content in (b" " * (2**20 + 1), pieces()):
            headers = {"content-type": "application/json"}
            answer = http.post("/v1/completions", content=content, headers=headers)
            assert answer.status_code == 413
        assert http.get("/health").status_code == 200


@pytest.mark.parametrize("stops", [1, 2])
def test_signals(stops: int, tmp_path: Path) -> None:
    program = f"""
import asyncio, logging, sys
from pieria.clock import RealTime
from pieria.server.serve import serve
from tests.server.fakes import Toy

toy = Toy("x" * 20)
toy.client.hold_after = 5

async def load():
    return toy.served

async def release():
    while not toy.state.draining:
        await asyncio.sleep(0.01)
    if {stops} == 1:
        toy.client.hold_after = None

async def main():
    releasing = asyncio.ensure_future(release())
    return await serve(toy.state, toy.config, RealTime(), load)

logging.basicConfig(level=logging.INFO, format="%(message)s")
sys.exit(asyncio.run(main()))
"""
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", program], stderr=out, cwd=Path(__file__).parents[2]
        )
    try:
        until(lambda: "serving toy on " in log.read_text())
        url = log.read_text().split("serving toy on ")[1].split()[0]
        running = Stream(url)
        until(lambda: "x" in running.text)
        for _ in range(stops):
            process.send_signal(signal.SIGTERM)
            until(lambda: "stopping; 1 requests are running" in log.read_text())
        assert process.wait(timeout=30) == 0
        assert ("[DONE]" in running.join()) == (stops == 1)
    finally:
        process.kill()
    assert "Traceback" not in log.read_text()


async def test_sighup_reads_keys_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reload, "LOOK_SECONDS", 1e6)  # the files alone would not be looked at
    caplog.set_level(logging.INFO)
    path = tmp_path / "keys.json"
    secrets = [keys.add(path, name, ("inference",), {}, RealTime()) for name in ("alice", "bob")]
    toy = Toy(api_key_file=path)

    async def load() -> Served:
        return toy.served

    async def told(text: str) -> str:
        while text not in caplog.text:
            await asyncio.sleep(0.005)
        return caplog.text.split(text)[1].split()[0]

    serving = asyncio.create_task(serve(toy.state, toy.config, RealTime(), load))
    try:
        url = await asyncio.wait_for(told("serving toy on "), 20)
        async with httpx.AsyncClient(base_url=url) as http:

            async def statuses() -> list[int]:
                headers = [{"authorization": f"Bearer {secret}"} for secret in secrets]
                return [(await http.get("/v1/models", headers=h)).status_code for h in headers]

            assert await statuses() == [200, 200]
            keys.revoke(path, "alice")
            assert await statuses() == [200, 200]
            os.kill(os.getpid(), signal.SIGHUP)
            await asyncio.wait_for(told("read anew: "), 20)
            assert await statuses() == [401, 200]
        os.kill(os.getpid(), signal.SIGTERM)
        assert await asyncio.wait_for(serving, 20) == 0
    finally:
        serving.cancel()


def test_an_address_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"cannot listen on host='127.0.0.1' port={port}: "):
            toy = Toy(port=port)
            Server(toy.state, toy.config, toy.clock)


def test_an_address_that_is_not_ours() -> None:
    toy = Toy(host="192.0.2.1", api_key=("k",))
    with pytest.raises(ValueError, match="cannot listen on host='192.0.2.1'"):
        Server(toy.state, toy.config, toy.clock)
