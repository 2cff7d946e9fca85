"""Messages over a socket pair: whole or not at all, typed, and an end that ends whoever waits."""

import asyncio
import math
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pieria.clock import RealTime
from pieria.engine import link
from pieria.engine.link import LONGEST_MESSAGE, AsyncLink, BlockingLink, Closed, Malformed, pack
from pieria.engine.messages import (
    Abort,
    Add,
    Command,
    Failed,
    FromEngine,
    Output,
    Progress,
    Ready,
    Reply,
    Shutdown,
    Start,
    Stats,
    ToEngine,
)
from pieria.engine.plan import Logprob
from pieria.engine.sampling_params import SamplingParams

LOGPROB = Logprob(7, -0.5, 2, ((3, -0.25), (7, -0.5), (9, -math.inf)))
FULL = SamplingParams(
    n=3,
    temperature=0.5,
    top_p=0.9,
    top_k=-1,
    min_p=0.1,
    seed=-(2**63),
    presence_penalty=-2.0,
    frequency_penalty=1.5,
    repetition_penalty=1.25,
    logit_bias={0: -100.0, 2**31 - 1: 3.5},
    stop=["\n\n", "你好🙂"],
    stop_token_ids=[1, 2],
    include_stop_str_in_output=True,
    ignore_eos=True,
    max_tokens=None,
    min_tokens=4,
    logprobs=0,
    prompt_logprobs=5,
    skip_special_tokens=False,
)
TO_ENGINE = [
    Start({"runner": {"model": "m", "max_model_len": None, "x": [1, 2.5, {"y": True}]}}),
    Add("a", (1, 2, 2**31), SamplingParams(), 2**63 - 1, 16),
    Add("b-1", (5,), FULL, 0, 1, choice=1, leader="b-0", priority=-3, salt="s", adapter="z"),
    Add("c", tuple(range(100_000)), SamplingParams(stop="end"), 1, 2),
    Abort(()),
    Abort(("a", "b-1")),
    Command(3, "profile", "/somewhere"),
    Shutdown(),
]
FROM_ENGINE = [
    Ready(4096, 151936, Stats(pages=9), (("dtype", "bfloat16", "asked for"),)),
    Progress((), Stats(), True),
    Progress(
        (
            Output("a", (4,), (LOGPROB,), (LOGPROB, LOGPROB), 16, "stop", 4),
            Output("b", finish_reason="error", error="ValueError: no"),
        ),
        Stats(*range(1, 13)),
        False,
    ),
    Reply(3, "done"),
    Reply(4, error="there is no profile"),
    Failed("RunnerLost: gone"),
    Failed("too small", refused=True),
]


def test_the_samples_are_of_every_kind() -> None:
    assert {type(m) for m in TO_ENGINE} == set(get_args(ToEngine))
    assert {type(m) for m in FROM_ENGINE} == set(get_args(FromEngine))


Ends = tuple[BlockingLink, BlockingLink]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """The front's end and the engine's."""
    ours, theirs = socket.socketpair()
    front, engine = BlockingLink(ours, FromEngine), BlockingLink(theirs, ToEngine)
    yield front, engine
    front.close()
    engine.close()


@pytest.fixture
def raw() -> Iterator[tuple[socket.socket, BlockingLink]]:
    """A bare socket, and the engine's end of it."""
    ours, theirs = socket.socketpair()
    engine = BlockingLink(theirs, ToEngine)
    yield ours, engine
    ours.close()
    engine.close()


def in_thread(work: Callable[[], Any]) -> Callable[[], Any]:
    """Start it; what is returned waits for its result and raises what it raised."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def result() -> Any:
        thread.join(timeout=20)
        assert found, "it did not end"
        if isinstance(found[0], Exception):
            raise found[0]
        return found[0]

    return result


def test_threads_get_what_was_sent(ends: Ends) -> None:
    front, engine = ends
    to_engine = in_thread(lambda: [engine.receive() for _ in TO_ENGINE])
    for message in TO_ENGINE:
        front.send(message)
    assert to_engine() == TO_ENGINE
    from_engine = in_thread(lambda: [front.receive() for _ in FROM_ENGINE])
    for message in FROM_ENGINE:
        engine.send(message)
    assert from_engine() == FROM_ENGINE


def test_a_message_that_waits_is_told(ends: Ends) -> None:
    front, engine = ends
    assert not engine.waiting()
    front.send(TO_ENGINE[0])
    assert engine.waiting()
    assert engine.receive() == TO_ENGINE[0]
    assert not engine.waiting()
    front.close()
    assert engine.waiting()


async def test_an_event_loop_gets_and_sends_the_same() -> None:
    ours, theirs = socket.socketpair()
    front, engine = await AsyncLink.open(ours, FromEngine), BlockingLink(theirs, ToEngine)
    received = in_thread(lambda: [engine.receive() for _ in TO_ENGINE])
    for message in TO_ENGINE:
        front.send(message)
    assert await asyncio.to_thread(received) == TO_ENGINE
    sent = in_thread(lambda: [engine.send(message) for message in FROM_ENGINE])
    assert [await front.receive() for _ in FROM_ENGINE] == FROM_ENGINE
    sent()
    front.close()
    with pytest.raises(Closed):
        await front.receive()
    with pytest.raises(Closed):
        engine.receive()
    engine.close()


def test_both_directions_at_once(ends: Ends) -> None:
    """Both send more than the socket's buffers hold before either has received anything."""
    front, engine = ends
    many = [Add(str(i), tuple(range(20_000)), SamplingParams(), i, 1) for i in range(60)]
    back = [Progress((Output(str(i), tuple(range(20_000))),), Stats(), False) for i in range(60)]
    sending = [in_thread(lambda: [front.send(m) for m in many])]
    sending += [in_thread(lambda: [engine.send(m) for m in back])]
    receiving = in_thread(lambda: [engine.receive() for _ in many])
    assert [front.receive() for _ in back] == back
    assert receiving() == many
    for end in sending:
        end()


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 2**32)), st.text(), st.lists(st.text(max_size=5), max_size=5))
def test_any_tokens_and_names(tokens: list[int], salt: str, ids: list[str]) -> None:
    for message in (Add("a", tuple(tokens), FULL, 1, 2, salt=salt), Abort(tuple(ids))):
        data = pack(message)
        (length,) = struct.unpack("<I", data[:4])
        assert length == len(data) - 4
        assert msgspec.msgpack.Decoder(ToEngine).decode(data[4:]) == message


def test_a_length_that_is_too_long_ends_the_connection(
    raw: tuple[socket.socket, BlockingLink],
) -> None:
    sock, engine = raw
    sock.sendall(struct.pack("<I", LONGEST_MESSAGE + 1))
    with pytest.raises(Closed, match=f"a message of {LONGEST_MESSAGE + 1} bytes was announced"):
        engine.receive()


async def test_a_length_that_is_too_long_ends_a_loops_connection_too() -> None:
    ours, theirs = socket.socketpair()
    front = await AsyncLink.open(ours, FromEngine)
    theirs.sendall(struct.pack("<I", 2**32 - 1) + b"x" * 100)
    with pytest.raises(Closed, match="a message of 4294967295 bytes was announced"):
        await front.receive()
    front.close()
    theirs.close()


def test_a_message_that_is_too_long_is_not_sent(ends: Ends, monkeypatch: Any) -> None:
    front, engine = ends
    monkeypatch.setattr(link, "LONGEST_MESSAGE", 100)
    with pytest.raises(ValueError, match=r"a message of \d+ bytes; at most 100 are allowed"):
        front.send(Abort(("x" * 100,)))
    front.send(Abort(("x" * 50,)))
    assert engine.receive() == Abort(("x" * 50,))


BROKEN_OFF = [b"", b"\x05", b"\x05\0\0", pack(Abort(("abc",)))[:4], pack(Abort(("abc",)))[:-1]]


@pytest.mark.parametrize("data", BROKEN_OFF)
def test_a_stream_that_breaks_off(data: bytes, raw: tuple[socket.socket, BlockingLink]) -> None:
    sock, engine = raw
    sock.sendall(pack(Shutdown()) + data)
    sock.close()
    assert engine.receive() == Shutdown()
    with pytest.raises(Closed, match="end of stream"):
        engine.receive()


@pytest.mark.parametrize("data", BROKEN_OFF)
async def test_a_stream_that_breaks_off_on_a_loop(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    front = await AsyncLink.open(ours, FromEngine)
    theirs.sendall(pack(Failed("x")) + data)
    theirs.close()
    assert await front.receive() == Failed("x")
    with pytest.raises(Closed, match="end of stream"):
        await front.receive()
    front.close()


def framed(body: bytes) -> bytes:
    return struct.pack("<I", len(body)) + body


ADD = msgspec.to_builtins(TO_ENGINE[1])
WRONG = {
    "no message": {"ids": ["a"]},
    "unknown kind": {"type": "Run", "code": "1"},
    "the other direction": {"type": "Failed", "reason": "x"},
    "wrong field": {"type": "Abort", "ids": [1]},
    "missing field": {"type": "Add", "id": "a"},
    "token that is no integer": {**ADD, "tokens": [1, 2.5]},
    "token that is a truth": {**ADD, "tokens": [True]},
    "refused parameters": {**ADD, "params": {"temperature": -1.0}},
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_form_is_refused_and_the_next_message_read(
    name: str, raw: tuple[socket.socket, BlockingLink]
) -> None:
    sock, engine = raw
    sock.sendall(framed(msgspec.msgpack.encode(WRONG[name])) + pack(Shutdown()))
    with pytest.raises(Malformed):
        engine.receive()
    assert engine.receive() == Shutdown()


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x93\x01", b"\x80\x80"])
async def test_bytes_that_are_no_message(body: bytes) -> None:
    ours, theirs = socket.socketpair()
    front, engine = await AsyncLink.open(ours, FromEngine), BlockingLink(theirs, ToEngine)
    theirs.sendall(framed(body) + pack(Failed("x")))
    with pytest.raises(msgspec.DecodeError):
        await front.receive()
    assert await front.receive() == Failed("x")
    front.send(Shutdown())
    assert await asyncio.to_thread(engine.receive) == Shutdown()
    front.close()
    engine.close()


def test_what_msgpack_cannot_hold_is_not_sent_in_part(ends: Ends) -> None:
    front, engine = ends
    with pytest.raises(UnicodeEncodeError):
        front.send(Abort(("\ud800",)))
    with pytest.raises((TypeError, NotImplementedError)):
        front.send(Add("a", (1,), SamplingParams(stop_token_ids=range(3)), 0, 1))
    front.send(Shutdown())
    assert engine.receive() == Shutdown()


def test_closing_ends_a_thread_that_receives(ends: Ends) -> None:
    _, engine = ends
    started = threading.Event()

    def receive() -> Any:
        started.set()
        return engine.receive()

    waiting = in_thread(receive)
    started.wait(timeout=20)
    RealTime().sleep(0.05)  # it should be within `recv` by now, which is the hard case
    engine.close()
    with pytest.raises(Closed):
        waiting()
    engine.close()
    with pytest.raises(Closed):
        engine.receive()


async def test_what_was_sent_at_the_end_is_read_though_the_other_end_writes() -> None:
    ours, theirs = socket.socketpair()
    front, engine = await AsyncLink.open(ours, FromEngine), BlockingLink(theirs, ToEngine)

    def end() -> None:
        engine.send(Failed("the cause"))
        engine.finish()
        engine.close()

    ended = in_thread(end)
    for i in range(50):
        front.send(Abort((str(i),)))
        await asyncio.sleep(0)
    assert await front.receive() == Failed("the cause")
    with pytest.raises(Closed):
        await front.receive()
    front.close()
    await asyncio.to_thread(ended)


async def test_closing_ends_a_task_that_receives() -> None:
    ours, theirs = socket.socketpair()
    front = await AsyncLink.open(ours, FromEngine)
    waiting = asyncio.create_task(front.receive())
    await asyncio.sleep(0)
    front.close()
    with pytest.raises(Closed):
        await waiting
    front.close()
    assert theirs.recv(1) == b""
    theirs.close()


def test_sending_to_nobody(ends: Ends) -> None:
    front, engine = ends
    front.close()
    with pytest.raises(Closed):
        engine.send(Failed("x"))
    with pytest.raises(Closed):
        front.send(Shutdown())


async def test_sending_to_nobody_from_a_loop_is_told_by_receive() -> None:
    ours, theirs = socket.socketpair()
    front = await AsyncLink.open(ours, FromEngine)
    theirs.close()
    front.send(Add("a", tuple(range(100_000)), SamplingParams(), 0, 1))
    with pytest.raises(Closed):
        await front.receive()
    front.send(Shutdown())
    front.close()
    front.send(Shutdown())
