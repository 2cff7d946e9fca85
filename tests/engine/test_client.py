"""The front's handle on an engine: streaming, aborting, and the root cause when the engine ends."""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from pieria.clock import RealTime
from pieria.engine import child, in_flight, process
from pieria.engine import client as client_module
from pieria.engine.black_box import BlackBox
from pieria.engine.cause import SHORT, EngineDead
from pieria.engine.child import Child, End
from pieria.engine.client import EngineClient, TimedOut
from pieria.engine.link import BlockingLink, pack
from pieria.engine.messages import Add, Output, Ready, Stats, ToEngine
from pieria.engine.sampling_params import SamplingParams
from tests.engine.toy import alone
from tests.engine.toy_factory import STOP, settings

ROOT = Path(__file__).parents[2]
FACTORY = "tests.engine.toy_factory:prepare"

LARGE = {"pages": 4000, "max_model_len": 15_000}
"""Room for requests that go on for longer than any test."""

Start = Callable[[str, dict[str, Any], Any], Awaitable[EngineClient]]


class ManualTime(RealTime):
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds


@asynccontextmanager
async def engine(
    start: Start = EngineClient.start_thread, **told: Any
) -> AsyncIterator[EngineClient]:
    """An engine that is ready, closed in the end."""
    made = await start(FACTORY, settings(**{**LARGE, **told}), RealTime())
    try:
        await made.wait_ready()
        yield made
    finally:
        await made.close()


def add(id: str, tokens: tuple[int, ...] = (1, 2, 3), max_tokens: int = 8, **params: Any) -> Add:
    return Add(id, tokens, SamplingParams(**params), 7, max_tokens)


def endless(id: str) -> Add:
    return add(id, max_tokens=14_000, ignore_eos=True)


async def news_of(client: EngineClient, *adds: Add) -> dict[str, list[Output]]:
    story: dict[str, list[Output]] = {a.id: [] for a in adds}
    async for output in client.stream(adds):
        story[output.id].append(output)
    return story


def tokens_of(news: list[Output]) -> list[int]:
    return [token for output in news for token in output.tokens]


async def until(condition: Callable[[], bool]) -> None:
    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0.002)

    await asyncio.wait_for(wait(), 20)


async def test_ready_and_its_decisions() -> None:
    async with engine(pages=31, max_model_len=90) as client:
        ready = await client.wait_ready()
        assert (ready.max_model_len, ready.stats) == (90, Stats(pages=31))
        assert [name for name, _, _ in ready.decisions] == ["torch"]
        assert client.ready and client.failure is None and client.in_flight == 0


async def test_streams_side_by_side() -> None:
    async with engine() as client:
        groups = [
            [add(f"{g}-{i}", (g,) * (i + 1), 4 + g, seed=i) for i in range(3)] for g in (3, 4)
        ]
        stories = await asyncio.gather(*[news_of(client, *adds) for adds in groups])
        for adds, story in zip(groups, stories, strict=True):
            for message in adds:
                wanted = alone(message, frozenset({STOP}))
                assert tokens_of(story[message.id]) == wanted.tokens
                assert story[message.id][-1].finish_reason == wanted.finish_reason
        assert client.in_flight == 0
        assert client.stats.pages_held == 0


async def test_requests_may_come_before_the_engine_is_ready(tmp_path: Path) -> None:
    told = settings(waits=str(tmp_path / "go"))
    client = await EngineClient.start_thread(FACTORY, told, RealTime())
    message = add("a")
    story = asyncio.create_task(news_of(client, message))
    await asyncio.sleep(0.02)
    assert not client.ready
    (tmp_path / "go").touch()
    assert tokens_of((await story)["a"]) == alone(message, frozenset({STOP})).tokens
    await client.close()


async def test_leaving_early_aborts_what_is_not_finished() -> None:
    async with engine(step_seconds=0.01) as client:
        stream = client.stream([endless("a"), endless("b"), add("short", max_tokens=1)])
        seen: list[str] = []
        async for output in stream:
            seen.append(output.id)
            if len(seen) >= 6:
                break
        await stream.aclose()
        assert client.in_flight == 0
        await until(lambda: client.stats.pages_held == 0)
        assert (client.stats.running, client.stats.waiting) == (0, 0)
        assert tokens_of((await news_of(client, add("a")))["a"]) != []


async def test_a_cancelled_reader_aborts() -> None:
    async with engine(step_seconds=0.005) as client:
        reader = asyncio.create_task(news_of(client, endless("a")))
        await until(lambda: client.stats.running == 1)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        await until(lambda: client.stats.running == 0)
        assert client.in_flight == 0


async def test_one_of_several_may_be_aborted() -> None:
    async with engine(step_seconds=0.002) as client:
        kept = add("kept", max_tokens=20, ignore_eos=True)
        found: list[int] = []
        async with aclosing(client.stream([endless("gone"), kept])) as stream:
            async for output in stream:
                if output.id == "gone" and client.in_flight == 2:
                    client.abort({"gone", "unknown"})
                    assert client.in_flight == 1
                if output.id == "kept":
                    found += output.tokens
                    if output.finish_reason is not None:
                        break
        assert found == alone(kept, frozenset({STOP})).tokens
        assert client.in_flight == 0
        await until(lambda: client.stats.pages_held == 0)


async def test_what_cannot_be_served_is_an_output() -> None:
    async with engine(max_model_len=200) as client:
        good = add("good", max_tokens=40, ignore_eos=True)
        good_story, bad = await asyncio.gather(
            news_of(client, good), news_of(client, add("bad", (1,) * 300))
        )
        [error] = bad["bad"]
        assert error.finish_reason == "error"
        assert (
            error.error == "300 prompt tokens and max_tokens=8 make 308; the model's limit is 200"
        )
        assert tokens_of(good_story["good"]) == alone(good, frozenset({STOP})).tokens
        assert client.failure is None


async def test_what_cannot_be_sent_leaves_nothing_behind() -> None:
    """The second of two requests has a text that no message can hold."""
    async with engine(step_seconds=0.005) as client:
        adds = [endless("a"), add("b", stop="\ud800")]
        with pytest.raises(UnicodeEncodeError):
            await news_of(client, *adds)
        assert client.in_flight == 0
        await until(lambda: client.stats.pages_held == 0)
        assert tokens_of((await news_of(client, add("a")))["a"]) != []


@pytest.mark.parametrize(
    ("told", "kind", "cause"),
    [
        ({"refuse": "no room"}, ValueError, "no room"),
        ({"crash": "out of luck"}, EngineDead, "RuntimeError: out of luck"),
        ({"scheduler": {"max_num_seqs": -1}}, ValueError, "max_num_seqs=-1 must be at least 1"),
    ],
)
async def test_an_engine_that_cannot_begin(
    told: dict[str, Any], kind: type[Exception], cause: str
) -> None:
    client = await EngineClient.start_thread(FACTORY, settings(**told), RealTime())
    early = asyncio.create_task(news_of(client, add("a")))
    with pytest.raises(kind, match=cause):
        await client.wait_ready()
    with pytest.raises(EngineDead, match=cause):
        await early
    with pytest.raises(EngineDead, match=cause):
        await news_of(client, add("b"))
    assert client.failure == cause
    assert not client.ready and not client.progressing(1e9) and client.in_flight == 0
    await client.close()
    assert client.failure == cause


async def test_the_cause_is_not_lost_on_those_who_write_when_the_engine_ends() -> None:
    client = await EngineClient.start_thread(FACTORY, settings(crash="out of luck"), RealTime())
    RealTime().sleep(0.1)  # meanwhile it ends, and this loop has not heard of it
    with pytest.raises(EngineDead, match="RuntimeError: out of luck"):
        await news_of(client, add("a"))
    await client.close()


async def test_settings_without_a_scheduler() -> None:
    client = await EngineClient.start_thread(FACTORY, {"runner": {}}, RealTime())
    with pytest.raises(EngineDead, match="KeyError: 'scheduler'"):
        await client.wait_ready()
    await client.close()


async def test_a_factory_that_is_not_there() -> None:
    for name in ("tests.engine.nowhere:prepare", "tests.engine.toy_factory:nothing"):
        with pytest.raises((ImportError, AttributeError)):
            await EngineClient.start_thread(name, settings(), RealTime())


async def test_a_lost_runner_ends_every_stream_with_the_cause() -> None:
    async with engine(lost=6) as client:
        streams = [news_of(client, endless("a"), endless("b")), news_of(client, endless("c"))]
        results = await asyncio.gather(*streams, return_exceptions=True)
        for result in results:
            assert isinstance(result, EngineDead)
            assert str(result) == "the device fell off the bus"
        assert client.in_flight == 0
        with pytest.raises(EngineDead, match="fell off"):
            await news_of(client, add("d"))
        client.abort({"a"})


async def test_what_came_before_the_end_is_still_read() -> None:
    async with engine(lost=6) as client:
        found: list[int] = []
        with pytest.raises(EngineDead):
            async for output in client.stream([endless("a")]):
                await asyncio.sleep(0.01)
                found += output.tokens
        short = add("a", max_tokens=5, ignore_eos=True)
        assert found == alone(short, frozenset({STOP})).tokens


async def test_closing_ends_streams() -> None:
    async with engine(step_seconds=0.005) as client:
        reader = asyncio.create_task(news_of(client, endless("a")))
        await until(lambda: client.stats.running == 1)
        await client.close()
        with pytest.raises(EngineDead, match="the engine was shut down"):
            await reader
        assert not client.ready
        await client.close()
        with pytest.raises(EngineDead, match="the engine was shut down"):
            await news_of(client, add("b"))


async def test_closing_leaves_no_thread_and_no_descriptor() -> None:
    async def once() -> None:
        async with engine() as client:
            await news_of(client, add("a"))

    await once()
    descriptors, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(3):
        await once()
    await until(lambda: threading.active_count() <= threads)
    await until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)


async def test_heartbeats_show_that_an_idle_engine_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "HEARTBEAT_SECONDS", 0.005)
    clock = ManualTime()
    client = await EngineClient.start_thread(FACTORY, settings(), clock)
    assert not client.progressing(10)
    await client.wait_ready()
    assert client.progressing(0)
    clock.seconds = 100.0
    await until(lambda: client.progressing(0))
    await client.close()
    assert not client.progressing(1e9)


async def test_an_engine_in_a_long_step_is_not_progressing() -> None:
    """A step of 50 ms, during which the clock jumps."""
    clock = ManualTime()
    told = settings(step_seconds=0.05, **LARGE)
    client = await EngineClient.start_thread(FACTORY, told, clock)
    await client.wait_ready()
    reader = asyncio.create_task(news_of(client, endless("a")))
    await until(lambda: client.stats.steps >= 1)
    RealTime().sleep(0.01)  # the next step has begun
    assert client.progressing(0)
    clock.seconds += 31
    assert not client.progressing(30)
    await until(lambda: client.progressing(30))
    reader.cancel()
    await client.close()


async def pair() -> tuple[EngineClient, BlockingLink, list[str]]:
    """A client, an engine's end without an engine, and what the engine's end would say."""
    ours, theirs = socket.socketpair()
    last: list[str] = []
    box = BlackBox.within_process()

    def ended(patience_seconds: float) -> End:
        return End(last[0] if last else None)

    client = EngineClient(lambda: Child(ours, box, ended), settings(), RealTime())
    return client, BlockingLink(theirs, ToEngine), last


async def test_what_is_no_message_is_a_cause_too() -> None:
    client, link, last = await pair()
    link.send(Ready(10, 99, Stats()))
    await client.wait_ready()
    reader = asyncio.create_task(news_of(client, add("a")))
    await until(lambda: client.in_flight == 1)
    link._socket.sendall(pack({"type": "Progress", "outputs": 3}))
    with pytest.raises(EngineDead, match="the engine sent what is no message: .*outputs"):
        await reader
    await client.close()
    link.close()


async def test_the_process_end_is_the_cause_when_nothing_was_said() -> None:
    client, link, last = await pair()
    last.append("the engine process ended with exit code 3")
    link.close()
    with pytest.raises(EngineDead, match="exit code 3"):
        await client.wait_ready()
    await client.close()


async def test_closing_does_not_wait_for_an_engine_that_is_stuck(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_module, "CLOSE_SECONDS", 0.05)
    client, link, _ = await pair()
    link.send(Ready(10, 99, Stats()))
    await client.wait_ready()
    await client.close()
    assert client.failure == "the engine was shut down"
    link.close()


async def test_closing_does_not_wait_for_an_engine_that_loads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(client_module, "CLOSE_SECONDS", 0.05)
    told = settings(waits=str(tmp_path / "go"))
    client = await EngineClient.start_thread(FACTORY, told, RealTime())
    await client.close()
    with pytest.raises(EngineDead, match="the engine was shut down"):
        await client.wait_ready()
    (tmp_path / "go").touch()


async def test_closing_a_process_that_loads_does_not_wait_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(client_module, "CLOSE_SECONDS", 600.0)
    told = settings(waits=str(tmp_path / "go"))
    client = await EngineClient.start_process(FACTORY, told, RealTime())
    await until(lambda: len(engine_processes()) == 1)
    [running] = engine_processes()
    await asyncio.wait_for(client.close(), 20)
    assert not running.is_running()


def engine_processes() -> list[psutil.Process]:
    found = []
    for running in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if "pieria.engine.process" in " ".join(running.cmdline()):
                found.append(running)
    return found


async def test_a_process_streams_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    async with engine(EngineClient.start_process) as client:
        [running] = engine_processes()
        assert (await client.wait_ready()).decisions == (("torch", "False", "a test"),)
        message = add("a", max_tokens=20, ignore_eos=True)
        story = await news_of(client, message)
        assert tokens_of(story["a"]) == alone(message, frozenset({STOP})).tokens
    assert not running.is_running()
    assert client.failure == "the engine was shut down"


def kill(number: signal.Signals = signal.SIGKILL) -> psutil.Process:
    """The one engine that runs."""
    [running] = engine_processes()
    running.send_signal(number)
    return running


async def replaced(client: EngineClient, restarts: int = 1) -> None:
    await until(lambda: client.restarts == restarts and client.ready)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
async def test_what_a_killed_engine_had_goes_on(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """Several kills: nothing is lost, sent twice or changed, and counters go on."""
    monkeypatch.chdir(ROOT)
    adds = [
        add(f"r{i}", (i + 1,) * (i + 2), 60, ignore_eos=True, logprobs=2, prompt_logprobs=1)
        for i in range(5)
    ]
    async with engine(EngineClient.start_process, step_seconds=0.01) as client:
        story = asyncio.create_task(news_of(client, *adds))
        for restarts in (1, 2):
            generated = client.stats.generated_tokens
            await until(lambda: client.stats.generated_tokens > generated + 40)  # noqa: B023
            kill(number)
            await replaced(client, restarts)
        found = await asyncio.wait_for(story, 20)
        for message in adds:
            wanted = alone(message, frozenset({STOP}))
            news = found[message.id]
            assert tokens_of(news) == wanted.tokens
            assert [p for o in news for p in o.logprobs] == wanted.logprobs
            assert [p for o in news for p in o.prompt_logprobs] == wanted.prompt_logprobs
            assert [o.finish_reason for o in news][-1] == wanted.finish_reason
        assert client.stats.generated_tokens >= 300
        assert client.tokens_per_second > 0
        assert client.stats.pages_held == 0 and client.in_flight == 0
    assert engine_processes() == []


async def test_requests_that_come_while_there_is_no_engine_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    async with engine(EngineClient.start_process) as client:
        kill()
        await until(lambda: not client.ready)
        message = add("a", max_tokens=20, ignore_eos=True)
        gone = asyncio.create_task(news_of(client, endless("gone")))
        story = await news_of(client, message)
        assert tokens_of(story["a"]) == alone(message, frozenset({STOP})).tokens
        gone.cancel()


async def test_where_an_engine_was_killed_for_want_of_memory_the_log_says_what_to_change(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(ROOT)
    async with engine(EngineClient.start_process) as client:
        kill()
        await replaced(client)
        assert SHORT not in caplog.text
        monkeypatch.setattr(child, "oom_kills", lambda: None)
        kill()
        await replaced(client, 2)
    assert SHORT in caplog.text


async def test_an_engine_that_hangs_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    told = settings(**LARGE, step_seconds=0.005)
    client = await EngineClient.start_process(FACTORY, told, RealTime(), 2.0)
    await client.wait_ready()
    message = add("a", max_tokens=100, ignore_eos=True)
    story = asyncio.create_task(news_of(client, message))
    await until(lambda: client.stats.generated_tokens > 10)
    stopped = kill(signal.SIGSTOP)
    found = await asyncio.wait_for(story, 30)
    assert tokens_of(found["a"]) == alone(message, frozenset({STOP})).tokens
    assert client.restarts == 1 and not stopped.is_running()
    await client.close()


@pytest.mark.parametrize("how", ["crashes", "hangs"])
async def test_a_request_that_ends_two_engines_is_refused(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The others are tried one by one, and finish as if nothing had happened."""
    monkeypatch.chdir(ROOT)
    told = settings(**LARGE, step_seconds=0.01, **{how: 99})
    client = await EngineClient.start_process(FACTORY, told, RealTime(), 2.0)
    await client.wait_ready()
    adds = [add(f"r{i}", (i + 1, 2), 30, ignore_eos=True) for i in range(4)]
    good = asyncio.create_task(news_of(client, *adds))
    await until(lambda: client.stats.generated_tokens > 8)
    bad = await asyncio.wait_for(news_of(client, add("bad", (99, 99, 99))), 40)
    [refusal] = bad["bad"]
    assert refusal.finish_reason == "error" and "not tried again" in str(refusal.error)
    found = await asyncio.wait_for(good, 20)
    for message in adds:
        assert tokens_of(found[message.id]) == alone(message, frozenset({STOP})).tokens
    assert client.restarts == 2
    await client.close()


async def test_an_engine_that_never_comes_back_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(client_module, "MOST_FAILURES", 2)
    once = tmp_path / "once"
    told = settings(**LARGE, crash_if=str(once))
    client = await EngineClient.start_process(FACTORY, told, RealTime())
    await client.wait_ready()
    reader = asyncio.create_task(news_of(client, endless("a")))
    await until(lambda: client.stats.running == 1)
    once.touch()
    kill()
    with pytest.raises(EngineDead, match="2 engines in a row failed, the last: .*gone for good"):
        await asyncio.wait_for(reader, 30)
    assert client.failure is not None and not client.ready
    await client.close()


async def test_a_slow_reader_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_flight, "MOST_BEHIND", 50)
    async with engine() as client:
        stream = client.stream([endless("a")])
        await anext(stream)
        await until(lambda: client.stats.generated_tokens > 60)
        with pytest.raises(in_flight.TooSlow):
            await anext(stream)
        await stream.aclose()
        await until(lambda: client.stats.pages_held == 0)
        message = add("b")
        assert tokens_of((await news_of(client, message))["b"]) != []


async def test_a_request_whose_time_is_up_is_aborted() -> None:
    async with engine(step_seconds=0.005) as client:
        with pytest.raises(TimedOut, match="within 0.05 s"):
            async for _ in client.stream([endless("a"), endless("b")], 0.05):
                pass
        assert client.in_flight == 0
        await until(lambda: client.stats.pages_held == 0)
