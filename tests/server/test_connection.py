"""Connections that say nothing, say it slowly, or do not listen, over real sockets."""

import contextlib
import json
import socket

import httpx

from tests.server.fakes import LiveServer, Toy, chat, until


def connect(live: LiveServer) -> socket.socket:
    return socket.create_connection(live.server._socket.getsockname(), timeout=20)


def closed(connection: socket.socket) -> bytes:
    """What came until the server hung up."""
    got = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(65536):
            got += piece
    return got


def test_a_head_that_does_not_end_is_not_waited_for() -> None:
    with LiveServer(Toy(header_timeout_seconds=0.2)) as live:
        for begin in (b"", b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: "):
            with connect(live) as slow:
                slow.sendall(begin)
                assert closed(slow) == b""


def test_nor_is_one_that_comes_byte_by_byte() -> None:
    head = b"GET /health HTTP/1.1\r\nhost: localhost\r\n" + b"x: y\r\n" * 10**3
    with LiveServer(Toy(header_timeout_seconds=0.3)) as live, connect(live) as slow:
        slow.settimeout(0.01)
        got, gone = b"", False
        for byte in head:
            try:
                slow.sendall(bytes([byte]))
                got += slow.recv(100)
                gone = True
                break
            except TimeoutError:
                continue
            except ConnectionError:
                gone = True
                break
        assert gone
        assert got == b""


def test_a_second_request_on_a_connection_is_bounded_too() -> None:
    with LiveServer(Toy(header_timeout_seconds=0.3)) as live, connect(live) as connection:
        for _ in range(2):
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            got = b""
            while not got.endswith(b'{"status":"ok"}'):
                got += connection.recv(65536)
        connection.sendall(b"GET /hea")
        assert closed(connection) == b""


def test_a_long_answer_is_not_cut_off_by_the_heads_limit() -> None:
    toy = Toy("x" * 20, header_timeout_seconds=0.1)
    toy.client.hold_after = 5
    with LiveServer(toy) as live:
        body = json.dumps(chat(stream=True)).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n".encode()
        with connect(live) as connection:
            connection.sendall(head + b"connection: close\r\n\r\n" + body)
            until(lambda: toy.client.in_flight == 1)
            toy.clock.sleep(0.3)
            toy.client.hold_after = None
            assert b"[DONE]" in closed(connection)


def test_connections_beyond_the_limit_are_closed_at_once() -> None:
    with LiveServer(Toy(max_connections=2)) as live:
        with connect(live) as one, connect(live):
            until(lambda: len(live.connections) == 2)
            with connect(live) as third:
                assert closed(third) == b""
            one.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert one.recv(100).startswith(b"HTTP/1.1 200")
        until(lambda: not live.connections)
        assert httpx.get(live.url + "/health").status_code == 200


def test_a_client_that_does_not_listen_is_cut_off_and_takes_its_request_along() -> None:
    toy = Toy("x" * 20, send_timeout_seconds=0.3, max_model_len=2**21)
    live = LiveServer(toy)
    live.server._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with live, connect(live) as deaf:
        body = json.dumps(chat(stream=True, ignore_eos=True, max_tokens=10**6)).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        deaf.sendall(head + body)
        until(lambda: toy.client.in_flight == 1)
        until(lambda: toy.client.in_flight == 0)
        assert len(toy.client.aborted) == 1
        until(lambda: not toy.state.in_flight)
