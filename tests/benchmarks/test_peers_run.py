"""Who has a turn when, and what becomes of those who fail, dawdle or answer wrongly."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import run
from benchmarks.peers.engines import ENGINES, Engine
from benchmarks.peers.models import REAL, Model
from benchmarks.peers.precisions import SIXTEEN
from benchmarks.peers.run import Bench, Results
from benchmarks.peers.sessions import EngineFailed
from benchmarks.peers.work import GREEDY_QUESTION, WORKS, Work
from tests.server.fakes import ToyTokenizer

NAMES = [engine.name for engine in ENGINES[:3]]


class CountedTime:
    seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def wall(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


def bench(name: str = REAL, **changes: Any) -> Bench:
    made = Bench(
        engines=ENGINES[:3],
        pythons={},
        model=Model(name, SIXTEEN, Path(), {}),
        tokenizer=ToyTokenizer(),  # type: ignore[arg-type]
        threads=1,
        repeats=3,
        patience_seconds=10.0,
        settle_seconds=0.0,
        cache_tokens=lambda size: size,
        logs=Path(),
        clock=CountedTime(),
        results=Results(sane=dict.fromkeys(NAMES, True)),
        save=lambda: None,
    )
    return replace(made, **changes)


def work(name: str) -> Work:
    [found] = [each for each in WORKS if each.name == name]
    return found


def test_turns_begin_with_another_engine_each_time() -> None:
    order: list[tuple[str, object]] = []

    def sample(engine: Engine, what: Work, number: object) -> dict[str, float]:
        order.append((engine.name, number))
        return {"rate": 100.0 if number == "warm-up" else float(str(number))}

    made = bench()
    made._take_turns(work("decode"), sample)
    a, b, c = NAMES
    assert [name for name, number in order if number == "warm-up"] == [a, b, c]
    assert sorted(order[3:], key=str) == sorted(((n, i) for n in NAMES for i in range(3)), key=str)
    assert len({name for name, number in order[3::3]}) > 1
    assert made.results.samples["decode"] == {n: {"rate": [0.0, 1.0, 2.0]} for n in NAMES}


def test_a_large_work_is_not_done_for_nothing() -> None:
    numbers: list[object] = []

    def sample(engine: Engine, what: Work, number: object) -> dict[str, float]:
        numbers.append(number)
        return {"rate": 1.0}

    bench()._take_turns(work("prompt-32768"), sample)
    assert numbers == [0] * 3 + [1] * 3 + [2] * 3


def test_who_fails_or_dawdles_has_no_further_turn() -> None:
    made = bench()

    def sample(engine: Engine, what: Work, number: object) -> dict[str, float]:
        if engine.name == NAMES[1]:
            raise EngineFailed("out of memory")
        if engine.name == NAMES[2]:
            made.clock.sleep(11.0)
        return {"rate": 1.0}

    made._take_turns(work("prompt-16384"), sample)
    assert made.results.samples["prompt-16384"] == {
        NAMES[0]: {"rate": [1.0] * 3},
        NAMES[2]: {"rate": [1.0]},
    }
    assert made.results.problems == {"prompt-16384": {NAMES[1]: "out of memory"}}


def test_who_is_not_sane_or_cannot_do_it_has_none() -> None:
    took: list[str] = []

    def sample(engine: Engine, what: Work, number: object) -> dict[str, float]:
        took.append(engine.name)
        return {"seconds": 1.0}

    made = bench(engines=ENGINES, results=Results(sane={e.name: True for e in ENGINES}))
    made.results.sane["vllm"] = False
    made._take_turns(work("start"), sample, once=True)
    assert took == ["pieria", "llama.cpp"]
    took.clear()
    made.results.sane["vllm"] = True
    made._take_turns(work("memory"), sample, once=True)
    assert took == ["pieria", "vllm"]


def test_an_engine_that_has_loaded_is_let_be(monkeypatch: pytest.MonkeyPatch) -> None:
    made = bench(settle_seconds=30.0)
    held: list[tuple[str, float]] = []

    class Loaded:
        def __init__(self, name: str, *_: object) -> None:
            self.name, self.slots = name, 1

        def hold(self) -> None:
            held.append((self.name, made.clock.now()))

        def close(self) -> None:
            pass

    monkeypatch.setattr(run, "Worker", Loaded)
    monkeypatch.setattr(Bench, "serve", lambda self, engine, *_: Loaded(engine.name))
    made = replace(made, pythons=dict.fromkeys(NAMES, Path()))
    with ExitStack() as stack:
        assert list(made._workers(stack)) == NAMES
        servers = run._Servers(made, stack)
        servers.of(made.engines[0], work("server-1"))
        assert held == [(name, 30.0 * (i + 1)) for i, name in enumerate(NAMES)]
        assert made.clock.now() == 120.0
        servers.of(made.engines[0], work("server-1"))
        assert made.clock.now() == 120.0


class Answering:
    """Says `text` to the question, and begins everything else with `first`."""

    def __init__(self, text: str, first: int) -> None:
        self.text, self.first, self.held = text, first, True

    def generate(self, prompts: list[list[int]], tokens: int) -> tuple[float, list[list[int]]]:
        assert not self.held
        if prompts == [list(GREEDY_QUESTION.encode())]:
            return 0.0, [list(self.text.encode())]
        return 0.0, [[self.first] for _ in prompts]

    def hold(self) -> None:
        self.held = True

    def resume(self) -> None:
        self.held = False

    def close(self) -> None:
        raise AssertionError


def checked(name: str, **sessions: Answering) -> Results:
    made = bench(name, results=Results())
    made._check(sessions)
    assert all(session.held for session in sessions.values())
    return made.results


def test_answers_are_checked_before_speed_counts() -> None:
    found = checked(
        REAL,
        pieria=Answering("It is Paris.\nReally", 5),
        vllm=Answering("It is Rome.", 5),
        openvino=Answering("Paris", 6),
        transformers=Answering("Paris", 5),
    )
    assert found.sane == {"pieria": True, "vllm": False, "openvino": False, "transformers": True}
    assert found.said["pieria"] == "It is Paris. (16 of 16 first tokens as transformers)"
    assert found.said["openvino"] == "Paris (0 of 16 first tokens as transformers)"


def test_random_weights_need_only_agree() -> None:
    found = checked("llama-0.5b", pieria=Answering("?", 5), transformers=Answering("!", 5))
    assert found.sane == {"pieria": True, "transformers": True}
