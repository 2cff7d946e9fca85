"""An engine ends with its front: one that hangs, and one whose front was killed."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pieria.engine import orphan
from tests.server.fakes import until

ROOT = Path(__file__).parents[2]

FRONT = """
import asyncio, sys
from pieria.clock import RealTime
from pieria.engine.client import EngineClient
from pieria.engine.messages import Add
from pieria.engine.sampling_params import SamplingParams
from tests.engine.toy_factory import settings

async def main():
    factory = "tests.engine.toy_factory:prepare"
    client = await EngineClient.start_process(factory, settings(hangs=9), RealTime())
    await client.wait_ready()
    asking = asyncio.create_task(ask(client))
    while not client._child.box.step:
        await asyncio.sleep(0.01)
    print("in a step", flush=True)
    await asking

async def ask(client):
    async for _ in client.stream([Add("a", (9,), SamplingParams(), 0, 4)]):
        pass

asyncio.run(main())
"""
"""Asks for what hangs the engine, whose thread then sleeps for ever."""

ALONE = """
import socket, sys, time
from pieria.engine import orphan
orphan.GRACE_SECONDS = 0.1
orphan.{way}(socket.socket(fileno=int(sys.argv[1])))
print("begun", flush=True)
while True:
    time.sleep(1)
"""


def test_an_engine_that_hangs_does_not_outlive_a_front_that_is_killed() -> None:
    front = subprocess.Popen([sys.executable, "-c", FRONT], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert front.stdout is not None
        assert front.stdout.readline() == b"in a step\n"
        [engine] = psutil.Process(front.pid).children()
        front.send_signal(signal.SIGKILL)
        front.wait(timeout=20)
        until(lambda: not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE, 60)
    finally:
        front.kill()
        front.wait()
        if front.stdout is not None:  # which an engine that goes on would not close
            front.stdout.close()


@pytest.mark.parametrize("way", ["end_with_parent", "end_with_other_end"])
def test_a_process_that_hangs_ends_when_the_other_end_is_closed(way: str) -> None:
    """While who started it goes on, so that the kernel has no reason to end it."""
    ours, theirs = socket.socketpair()
    made = subprocess.Popen(
        [sys.executable, "-c", ALONE.format(way=way), str(theirs.fileno())],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        pass_fds=[theirs.fileno()],
        stdout=subprocess.PIPE,
    )
    theirs.close()
    try:
        assert made.stdout is not None
        assert made.stdout.readline() == b"begun\n"
        ours.shutdown(socket.SHUT_WR)  # says no more, and still reads
        with pytest.raises(subprocess.TimeoutExpired):
            made.wait(timeout=0.5)
        ours.close()
        assert made.wait(timeout=30) == 1
    finally:
        made.kill()
        made.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells a child of its parent's end")
def test_the_kernel_ends_what_a_killed_process_started() -> None:
    """Even if it is stopped, and its socket stays open in another process."""
    ours, theirs = socket.socketpair()
    starts = "import subprocess, sys, time\n"
    starts += "p = subprocess.Popen([sys.executable, '-c', sys.argv[1], sys.argv[2]],"
    starts += " pass_fds=[int(sys.argv[2])])\nprint(p.pid, flush=True)\ntime.sleep(60)\n"
    parent = subprocess.Popen(
        [sys.executable, "-c", starts, ALONE.format(way="end_with_parent"), str(theirs.fileno())],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        pass_fds=[theirs.fileno()],
        stdout=subprocess.PIPE,
    )
    try:
        assert parent.stdout is not None
        lines = sorted(parent.stdout.readline() for _ in range(2))
        child = psutil.Process(int(lines[0]))
        assert lines[1] == b"begun\n"
        child.suspend()
        parent.kill()
        parent.wait(timeout=20)
        until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    finally:
        parent.kill()
        parent.communicate()
        ours.close()
        theirs.close()


def test_grace_is_shorter_than_what_a_front_waits() -> None:
    from pieria.engine.client import CLOSE_SECONDS

    assert orphan.GRACE_SECONDS <= CLOSE_SECONDS
