"""Processes are waited for, watched and ended; the server is a few lines of Python."""

import sys
from pathlib import Path

import psutil
import pytest

from pieria.bench.process import Server, free_port
from pieria.clock import RealTime

PROGRAM = """
import http.server, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; x = bytearray(64 << 20); x[::4096] = b'a' * len(x[::4096]); time.sleep(600)"])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/ready" else 404)
        self.end_headers()
    def do_POST(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(data[::-1])
print("hello from the server", flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""  # noqa: E501


def test_a_server_from_start_to_end(tmp_path: Path) -> None:
    port, log, clock = free_port(), tmp_path / "log", RealTime()
    command = [sys.executable, "-c", PROGRAM, str(port)]
    with Server(command, port, clock, log=log, watched=True) as server:
        took = server.wait("/other", 60, statuses=None)
        assert 0 < took <= server.wait("/ready", 60)
        assert server.request("/turn", b"abc") == (200, "cba")
        with pytest.raises(RuntimeError, match="/other was not answered as hoped within 0.1 s"):
            server.wait("/other", 0.1)
        processes = server.processes()
        assert len(processes) == 2
        while server.peak_bytes() < 64 << 20:
            clock.sleep(0.05)
    assert not any(process.is_running() for process in processes)
    assert server.processes() == []
    assert "hello from the server" in log.read_text()


def test_a_server_that_ends() -> None:
    port = free_port()
    command = [sys.executable, "-c", "raise SystemExit(3)"]
    with (
        Server(command, port, RealTime()) as server,
        pytest.raises(RuntimeError, match="the server ended with exit code 3"),
    ):
        server.wait("/", 60)


def test_a_server_that_will_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pieria.bench.process.END_SECONDS", 0.2)
    program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    with Server([sys.executable, "-c", program], free_port(), RealTime()) as server:
        [process] = server.processes()
    assert not psutil.pid_exists(process.pid)
