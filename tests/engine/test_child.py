"""Why an engine's process ended: by itself, by somebody, or for want of memory."""

import os
import signal
from pathlib import Path

import psutil
import pytest

from pieria.engine import child
from pieria.engine.child import End


def killed(monkeypatch: pytest.MonkeyPatch, counters: tuple[Path, ...], after: str) -> End:
    """The end of a process that is killed, while a counter goes on to `after`."""
    monkeypatch.setattr(child, "OOM_COUNTERS", counters)
    others = set(psutil.Process().children())
    made = child.start_process("nothing:starts")
    [process] = set(psutil.Process().children()) - others
    if counters:
        counters[-1].write_text(after)
    os.killpg(process.pid, signal.SIGKILL)
    made.socket.close()
    return made.ended(20)


def test_one_that_the_system_killed_for_want_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing, counter = tmp_path / "none", tmp_path / "vmstat"
    before = "nr_free_pages 7\noom_kill 3\n"
    for after, memory in ((before, False), ("nr_free_pages 1\noom_kill 4\n", True)):
        counter.write_text(before)
        end = killed(monkeypatch, (missing, counter), after)
        assert (end.memory, end.outside) == (memory, not memory)
        assert ("most likely for want of memory" in str(end.reason)) == memory


def test_where_the_system_does_not_say_memory_is_suspected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert child.oom_kills() is None or child.oom_kills() >= 0
    end = killed(monkeypatch, (), "")
    assert end.memory and not end.outside


def test_one_that_we_cut_off_was_not_killed_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    made = child.start_process("nothing:starts")
    assert made.kill is not None
    made.kill()
    end = made.ended(20)
    made.socket.close()
    assert (end.memory, end.outside) == (False, False)
    assert end.reason == "the engine process ended with exit code -9"
