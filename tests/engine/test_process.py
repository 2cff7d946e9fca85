"""The engine's loop: what it answers, when, and what ends it."""

import itertools
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pieria.engine import process
from pieria.engine.black_box import BlackBox
from pieria.engine.engine import RunnerLost
from pieria.engine.link import BlockingLink, Closed
from pieria.engine.messages import (
    Abort,
    Add,
    Failed,
    FromEngine,
    Output,
    Progress,
    Ready,
    Shutdown,
    Start,
    Stats,
)
from pieria.engine.plan import StepPlan, StepResult
from pieria.engine.process import Prepared
from pieria.engine.sampling_params import SamplingParams
from tests.engine import toy_factory
from tests.engine.toy import ToyRunner, alone
from tests.engine.toy_factory import STOP, prepare, settings

ROOT = Path(__file__).parents[2]


def add(id: str, tokens: tuple[int, ...] = (1, 2, 3), max_tokens: int = 8, **params: Any) -> Add:
    return Add(id, tokens, SamplingParams(**params), 7, max_tokens)


class Gated(ToyRunner):
    """Runs a step when it is told to. entered: a plan for each step that it has begun."""

    def __init__(self) -> None:
        super().__init__(64, 4)
        self.entered: queue.SimpleQueue[StepPlan] = queue.SimpleQueue()
        self.go: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    def run(self, plan: StepPlan) -> StepResult:
        self.entered.put(plan)
        error = self.go.get(timeout=20)
        if error is not None:
            raise error
        return super().run(plan)


class Front:
    """The other end of an engine that runs in a thread of this process."""

    def __init__(self, factory: Callable[[dict[str, Any]], Prepared], start: Any = None) -> None:
        ours, theirs = socket.socketpair()
        self.box = box = BlackBox.within_process()
        self.link = BlockingLink(ours, FromEngine)
        self.thread = threading.Thread(target=process.run, args=(theirs, factory, box), daemon=True)
        self.thread.start()
        self.link.send(Start(settings()) if start is None else start)

    def until_end(self) -> list[Any]:
        """All messages up to the end of the engine."""
        messages = []
        while True:
            try:
                messages.append(self.link.receive())
            except Closed:
                self.link.close()
                self.joined()
                return messages

    def joined(self) -> None:
        self.thread.join(timeout=20)
        assert not self.thread.is_alive()

    def tell(self, story: dict[str, list[Output]], ids: set[str]) -> Stats:
        """Receive into `story` until these requests are finished."""
        waiting = set(ids)
        while waiting:
            progress = self.link.receive()
            assert isinstance(progress, Progress), progress
            for output in progress.outputs:
                story.setdefault(output.id, []).append(output)
                if output.finish_reason is not None:
                    waiting.remove(output.id)
        return progress.stats


@pytest.fixture
def runner() -> Gated:
    return Gated()


class GatedFront(Front):
    """An engine that is ready, around a `Gated` runner."""

    def __init__(
        self, runner: Gated, monkeypatch: pytest.MonkeyPatch, ahead: Iterable[None] = ()
    ) -> None:
        self.receiving = receiving = threading.Semaphore(0)

        class Watched(BlockingLink):
            def receive(self) -> Any:
                receiving.release()
                return super().receive()

        monkeypatch.setattr(process, "BlockingLink", Watched)
        super().__init__(lambda settings: Prepared(runner, 64, 4, 200, 99, ahead=ahead))
        assert isinstance(self.link.receive(), Ready)
        assert receiving.acquire(timeout=20)
        assert receiving.acquire(timeout=20)

    def put(self, message: Any) -> None:
        """Send it and wait until it lies before the engine's loop."""
        self.link.send(message)
        assert self.receiving.acquire(timeout=20)


@pytest.fixture
def gated(runner: Gated, monkeypatch: pytest.MonkeyPatch) -> Iterator[GatedFront]:
    made = GatedFront(runner, monkeypatch)
    yield made
    made.link.close()
    runner.go.put(None)
    made.joined()
    assert runner.closed


@pytest.fixture
def toy() -> Iterator[Front]:
    """An engine that is ready, around a toy runner."""
    made = Front(prepare)
    assert isinstance(made.link.receive(), Ready)
    yield made
    made.link.close()
    made.joined()


def tokens_of(news: list[Output]) -> list[int]:
    return [token for output in news for token in output.tokens]


def test_ready_says_what_was_prepared() -> None:
    front = Front(prepare, Start(settings(pages=31, max_model_len=77, vocabulary=55)))
    ready = front.link.receive()
    assert (ready.max_model_len, ready.vocabulary) == (77, 55)
    assert ready.stats == Stats(pages=31)
    assert [d[0] for d in ready.decisions] == ["torch"]
    front.link.send(Shutdown())
    assert [m for m in front.until_end() if not isinstance(m, Progress)] == []


def test_requests_get_the_tokens_that_they_would_get_alone(toy: Front) -> None:
    adds = [add(str(i), tuple(range(i + 1)), 5 + i, seed=i) for i in range(6)]
    story: dict[str, list[Output]] = {}
    for message in adds:
        toy.link.send(message)
    stats = toy.tell(story, {m.id for m in adds})
    for message in adds:
        wanted = alone(message, frozenset({STOP}))
        assert tokens_of(story[message.id]) == wanted.tokens
        assert story[message.id][-1].finish_reason == wanted.finish_reason
    assert (stats.running, stats.waiting, stats.pages_held) == (0, 0, 0)
    assert stats.generated_tokens == sum(len(tokens_of(news)) for news in story.values())


def test_windows_and_states_reach_the_scheduler() -> None:
    front = Front(prepare, Start(settings(windows=(None, 5), states=8)))
    assert isinstance(front.link.receive(), Ready)
    message = add("a", tuple(range(9)), 20, ignore_eos=True)
    story: dict[str, list[Output]] = {}
    front.link.send(message)
    front.tell(story, {"a"})
    wanted = alone(message, frozenset({STOP}), (None, 5), True)
    assert tokens_of(story["a"]) == wanted.tokens
    front.link.send(Shutdown())
    front.until_end()


def test_what_cannot_be_served_is_told_and_hurts_nobody(toy: Front) -> None:
    good = add("good", max_tokens=30, ignore_eos=True)
    bad = [
        add("empty", ()),
        add("long", (1,) * 150, 51),
        add("nothing", max_tokens=0),
        add("good"),  # the id is in use
    ]
    story: dict[str, list[Output]] = {}
    toy.link.send(good)
    for message in bad[:3]:
        toy.link.send(message)
    toy.tell(story, {"good", "empty", "long", "nothing"})
    assert tokens_of(story["good"]) == alone(good, frozenset({STOP})).tokens
    assert {id: news[-1].error for id, news in story.items()} == {
        "good": None,
        "empty": "the prompt has no tokens; at least 1 is needed",
        "long": "150 prompt tokens and max_tokens=51 make 201; the model's limit is 200",
        "nothing": "max_tokens=0 must be at least 1; the prompt has 3 tokens and the model's"
        " limit is 200",
    }
    assert all(news[-1].finish_reason == "error" for id, news in story.items() if id != "good")


def test_an_id_in_use_is_refused(gated: GatedFront, runner: Gated) -> None:
    gated.put(add("a"))
    runner.entered.get(timeout=20)
    gated.put(add("a"))
    runner.go.put(None)
    first = gated.link.receive()
    assert [o.error for o in first.outputs] == [None]
    runner.entered.get(timeout=20)
    runner.go.put(None)
    second = gated.link.receive()
    assert [o.error for o in second.outputs] == ["request id 'a' is in use", None]


def test_an_aborted_request_is_gone_before_the_next_step(gated: GatedFront, runner: Gated) -> None:
    for id in ("a", "b"):
        gated.put(add(id, max_tokens=100, ignore_eos=True))
    planned: set[str] = set()
    while planned != {"a", "b"}:
        planned = {chunk.request for chunk in runner.entered.get(timeout=20).chunks}
        runner.go.put(None)
        before = gated.link.receive()
    runner.entered.get(timeout=20)
    gated.put(Abort(("a", "unknown")))
    runner.go.put(None)
    # The step that was running ends with both; the next one has only one of them.
    running = gated.link.receive()
    assert {o.id for o in running.outputs} == {"a", "b"}
    assert {c.request for c in runner.entered.get(timeout=20).chunks} == {"b"}
    gated.put(Abort(("b",)))
    runner.go.put(None)
    assert {o.id for o in gated.link.receive().outputs} == {"b"}
    idle = gated.link.receive()
    assert (idle.outputs, idle.idle, idle.stats.pages_held) == ((), True, 0)
    assert idle.stats.steps == before.stats.steps + 2
    assert (idle.stats.aborts, idle.stats.late_aborts) == (2, 0)


def test_an_abort_that_waits_for_another_step_is_counted(
    gated: GatedFront, runner: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it would if the loop took one message a step."""
    every = process._messages

    def one(inbox: process.Inbox, wait: bool) -> list[tuple[Any, int]]:
        first, *rest = every(inbox, wait) or [None]
        for message in rest:
            inbox.put(message)
        return [] if first is None else [first]

    monkeypatch.setattr(process, "_messages", one)
    gated.put(add("a", max_tokens=100, ignore_eos=True))
    runner.entered.get(timeout=20)
    for id in ("unknown", "other", "a"):
        gated.put(Abort((id,)))
    for _ in range(3):
        runner.go.put(None)
        gated.link.receive()
    idle = gated.link.receive()
    assert (idle.stats.aborts, idle.stats.late_aborts, idle.stats.pages_held) == (1, 1, 0)


def test_a_request_that_is_aborted_before_it_began_is_never_planned(
    gated: GatedFront, runner: Gated
) -> None:
    gated.put(add("a"))
    runner.entered.get(timeout=20)
    gated.put(add("b"))
    gated.put(Abort(("b",)))
    runner.go.put(None)
    while not (progress := gated.link.receive()).idle:
        assert {o.id for o in progress.outputs} == {"a"}
        runner.go.put(None)


def test_a_heartbeat_while_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "HEARTBEAT_SECONDS", 0.005)
    front = Front(prepare)
    front.link.receive()
    beats = [front.link.receive() for _ in range(5)]
    assert beats == [Progress((), Stats(pages=64), True)] * 5
    front.link.send(Shutdown())
    front.until_end()


def test_a_step_that_fails_ends_only_the_request_at_fault() -> None:
    front = Front(prepare, Start(settings(bad="bad")))
    front.link.receive()
    adds = [add(id, ignore_eos=True) for id in ("bad", "a", "b")]
    for message in adds:
        front.link.send(message)
    story: dict[str, list[Output]] = {}
    front.tell(story, {m.id for m in adds})
    assert [o.error for o in story["bad"]] == ["computing a step of it failed with RuntimeError"]
    for message in adds[1:]:
        assert tokens_of(story[message.id]) == alone(message, frozenset({STOP})).tokens
    front.link.send(Shutdown())
    front.until_end()


def test_a_runner_that_is_lost_ends_the_engine(
    gated: GatedFront, runner: Gated, caplog: pytest.LogCaptureFixture
) -> None:
    gated.link.send(add("a"))
    runner.go.put(RunnerLost("the device fell off the bus"))
    assert gated.until_end() == [Failed("the device fell off the bus")]
    assert runner.closed
    assert "Traceback" not in caplog.text


def test_a_runner_that_is_lost_while_idle_ends_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "HEARTBEAT_SECONDS", 0.005)
    calls = itertools.count()

    def check() -> None:
        if next(calls) == 3:
            raise RunnerLost("the device fell off the bus")

    front = Front(lambda settings: replace(prepare(settings), check=check))
    assert isinstance(front.link.receive(), Ready)
    assert front.until_end() == [
        *[Progress((), Stats(pages=64), True)] * 3,
        Failed("the device fell off the bus"),
    ]


def test_what_is_done_ahead_waits_for_every_request(
    runner: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "HEARTBEAT_SECONDS", 0.005)
    allowed: queue.SimpleQueue[bool] = queue.SimpleQueue()
    begun = threading.Event()
    done: list[int] = []

    def ahead() -> Iterator[None]:
        begun.set()
        while allowed.get(timeout=20):
            done.append(1)
            yield

    front = GatedFront(runner, monkeypatch, ahead())
    assert begun.wait(timeout=20)
    front.put(add("a", max_tokens=3))  # while the first piece is being done
    for _ in range(4):
        allowed.put(True)
    for _ in range(3):
        runner.entered.get(timeout=20)
        assert len(done) == 1
        runner.go.put(None)
    story: dict[str, list[Output]] = {}
    front.tell(story, {"a"})
    allowed.put(False)
    while not front.link.receive().idle:
        pass
    beats = [front.link.receive() for _ in range(3)]
    assert len(done) == 4
    assert [beat.idle for beat in beats] == [True] * 3
    front.link.send(Shutdown())
    front.until_end()


START_ERRORS = {
    "refused": (settings(refuse="no room"), Failed("no room", refused=True)),
    "crash": (settings(crash="out of luck"), Failed("RuntimeError: out of luck")),
    "option": (
        settings({"max_num_seqs": 0}),
        Failed("max_num_seqs=0 must be at least 1", refused=True),
    ),
    "type": (
        settings({"max_num_seqs": "many"}),
        Failed("Expected `int`, got `str` - at `$.max_num_seqs`", refused=True),
    ),
    "missing": ({"runner": {}}, Failed("KeyError: 'scheduler'")),
}


@pytest.mark.parametrize("name", START_ERRORS)
def test_a_start_that_fails_is_told(name: str) -> None:
    told, failed = START_ERRORS[name]
    assert Front(prepare, Start(told)).until_end() == [failed]


def test_the_first_message_must_be_a_start() -> None:
    front = Front(prepare, Shutdown())
    assert front.until_end() == [Failed("the first message was Shutdown, not Start", refused=True)]


def test_bytes_that_are_no_message_end_the_engine(gated: GatedFront, runner: Gated) -> None:
    sock = gated.link._socket
    sock.sendall(b"\x01\0\0\0\xc1")
    *_, failed = gated.until_end()
    assert isinstance(failed, Failed) and not failed.refused
    assert "MessagePack" in failed.reason
    assert runner.closed


def test_a_front_that_goes_away_in_a_step_ends_the_engine(gated: GatedFront, runner: Gated) -> None:
    gated.link.send(add("a", max_tokens=100, ignore_eos=True))
    runner.entered.get(timeout=20)
    gated.link.close()
    runner.go.put(None)
    gated.joined()
    assert runner.closed


def test_a_front_that_goes_away_while_the_engine_starts(tmp_path: Path) -> None:
    front = Front(prepare, Start(settings(waits=str(tmp_path / "go"))))
    front.link.close()
    (tmp_path / "go").touch()
    front.joined()


def test_no_thread_is_left(toy: Front) -> None:
    toy.link.send(Shutdown())
    toy.until_end()
    names = [t.name for t in threading.enumerate() if "_receive" in t.name]
    for thread in threading.enumerate():
        if "_receive" in thread.name:
            thread.join(timeout=20)
            assert not thread.is_alive(), names


Child = tuple[BlockingLink, "subprocess.Popen[bytes]"]


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Iterator[Child]:
    """An engine in a process, not started yet."""
    monkeypatch.chdir(ROOT)
    ours, theirs = socket.socketpair()
    factory = f"{toy_factory.__name__}:prepare"
    box, memory = BlackBox.shared()
    fds = [theirs.fileno(), memory]
    command = [sys.executable, "-m", "pieria.engine.process", *map(str, fds), factory]
    made = subprocess.Popen(command, pass_fds=fds, stderr=subprocess.PIPE)
    theirs.close()
    os.close(memory)
    link = BlockingLink(ours, FromEngine)
    yield link, made
    link.close()
    made.kill()
    made.communicate()


def test_a_process_serves_and_ends_with_its_front(child: Child) -> None:
    link, made = child
    link.send(Start(settings()))
    assert link.receive().decisions == (("torch", "False", "a test"),)
    made.send_signal(signal.SIGINT)  # a terminal's Ctrl-C: the front decides
    message = add("a", max_tokens=20, ignore_eos=True)
    link.send(message)
    found: list[int] = []
    while len(found) < 20:
        found += tokens_of(list(link.receive().outputs))
    assert found == alone(message, frozenset({STOP})).tokens
    link.close()
    assert made.wait(timeout=20) == 0


def test_a_process_that_cannot_begin_ends_in_order(child: Child) -> None:
    link, made = child
    link.send(Start(settings(crash="out of luck")))
    assert link.receive() == Failed("RuntimeError: out of luck")
    link.send(add("a"))  # nobody reads it, and nothing is lost by it
    with pytest.raises(Closed):
        link.receive()
    link.close()
    assert made.wait(timeout=20) == 0
    assert made.stderr is not None
    assert "RuntimeError: out of luck" in made.stderr.read().decode()
