"""Answers taken apart with the times of their pieces; and over a socket."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pieria.bench.http_stream import parse, request
from pieria.clock import RealTime
from tests.bench.fake_server import serving

WHOLE = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n7\r\n, world\r\n0\r\n\r\n"
)


def test_each_piece_has_the_time_when_it_came() -> None:
    cut = WHOLE.index(b"7\r\n")
    found = parse("POST", 1.0, [(2.0, WHOLE[:cut]), (3.0, WHOLE[cut:-5]), (4.0, WHOLE[-5:])], "")
    assert found.sent == 1.0
    assert found.status == 200
    assert found.body == ((2.0, b"hello"), (3.0, b", world"))
    assert found.text == "hello, world"


@given(st.lists(st.integers(0, len(WHOLE)), max_size=6))
def test_wherever_it_is_cut(cuts: list[int]) -> None:
    ends = [0, *sorted(cuts), len(WHOLE)]
    pieces = [
        (float(i), WHOLE[a:b])
        for i, (a, b) in enumerate(zip(ends, ends[1:], strict=False))
        if a < b
    ]
    found = parse("POST", 0.0, pieces, "")
    assert (found.status, found.text, found.error) == (200, "hello, world", "")


@given(st.integers(0, len(WHOLE) - 1))
def test_an_answer_that_is_cut_short_is_none(length: int) -> None:
    found = parse("POST", 0.0, [(1.0, WHOLE[:length])] if length else [], "")
    assert found.status == 0
    assert found.error


def test_an_error_of_the_connection_is_kept() -> None:
    assert parse("POST", 0.0, [], "ConnectionResetError: gone").error.startswith("ConnectionReset")
    assert "not HTTP" in parse("POST", 0.0, [(1.0, b"SSH-2.0-x\r\n\r\n")], "").error


async def test_over_a_socket() -> None:
    async with serving(models=("one",)) as server:
        found = await request("GET", f"{server.url}/v1/models", RealTime(), [("X-Key", "v")])
    assert (found.status, found.text) == (200, '{"data": [{"id": "one"}]}')
    assert "x-key: v" in server.headers[0].lower()
    assert "connection: close" in server.headers[0].lower()


async def test_nobody_there() -> None:
    async with serving() as server:
        url = server.url
    found = await asyncio.wait_for(request("GET", f"{url}/x", RealTime()), 10)
    assert found.status == 0
    assert found.error.startswith("ConnectionRefusedError")


async def test_an_unsafe_header_is_refused() -> None:
    with pytest.raises(Exception, match="header"):
        await request("GET", "http://127.0.0.1:1/", RealTime(), [("X", "a\r\nY: b")])
