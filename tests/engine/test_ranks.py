"""Two tensor parallel processes over gloo give the tokens of one, and end together."""

import socket
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from pieria.engine.engine import Engine, RunnerLost
from pieria.engine.plan import Chunk, StepPlan
from pieria.engine.prefix_cache import PrefixCache
from pieria.engine.process import Prepared
from pieria.engine.ranks import Run, loopback_store, prepare
from pieria.engine.runner_config import RunnerConfig
from pieria.engine.scheduler import Scheduler, SchedulerConfig
from tests.engine.real import STOP, add, naive, run, tokens_of
from tests.models import tiny
from tests.models.test_families import read

pytestmark = pytest.mark.dist

SCHEDULING = SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=16)


@pytest.fixture(params=["Llama", "Qwen2", "Llama tied"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    kind, _, tied = request.param.partition(" ")
    made = tiny.model(kind, torch.float64, tie_word_embeddings=bool(tied))
    tiny.write_tokenizer(tiny.save(made, tmp_path))
    return tmp_path


def settings(folder: Path, **options: Any) -> dict[str, Any]:
    runner = RunnerConfig(
        str(folder), dtype="float64", kv_cache_memory_bytes=1 << 20, device="cpu", **options
    )
    return {"runner": asdict(runner), "scheduler": asdict(SCHEDULING)}


@pytest.fixture(params=["tensor", "pipeline"])
def ranks(folder: Path, request: pytest.FixtureRequest) -> Iterator[Prepared]:
    yield from started(folder, request.param)


@pytest.fixture(params=["tensor", "pipeline"])
def llama(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Prepared]:
    tiny.write_tokenizer(tiny.save(tiny.model("Llama", torch.float64), tmp_path))
    yield from started(tmp_path, request.param)


def started(folder: Path, axis: str) -> Iterator[Prepared]:
    prepared = prepare(settings(folder, threads=1, **{f"{axis}_parallel_size": 2}))
    yield prepared
    prepared.runner.close()


def engine(prepared: Prepared) -> Engine:
    cache = PrefixCache(prepared.pages, prepared.page_tokens)
    scheduler = Scheduler(SCHEDULING, cache, frozenset({STOP}), prepared.max_model_len)
    return Engine(scheduler, prepared.runner)


def test_the_store_listens_on_one_address_alone() -> None:
    store = loopback_store(1)
    with socket.create_connection(("127.0.0.1", store.port), timeout=10):
        pass
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", store.port), timeout=10)


def test_tokens_are_those_of_one_process(folder: Path, ranks: Prepared) -> None:
    model = read(folder, torch.float64)
    made = engine(ranks)
    adds = [add(str(i), list(range(i, 3 * i + 9)), 10, ignore_eos=True) for i in range(6)]
    adds.append(add("drawn", [5, 6, 7], 10, temperature=0.8, seed=3, ignore_eos=True))
    for message in adds:
        made.add(message)
    news = run(made)
    for message in adds:
        assert tokens_of(news[message.id]) == naive(model, message), message.id


def test_each_rank_holds_a_part_of_the_cache(folder: Path) -> None:
    """So the same bytes a rank hold twice the pages."""
    whole = prepare(settings(folder))
    half = prepare(settings(folder, tensor_parallel_size=2, threads=1))
    half.runner.close()
    assert half.pages // 2 == whole.pages


def test_a_rank_that_dies_ends_the_engine(llama: Prepared) -> None:
    made = engine(llama)
    made.add(add("a", [1, 2, 3], 10, ignore_eos=True))
    made.step()
    [peer] = llama.runner.peers  # type: ignore[attr-defined]
    peer.process.kill()
    with pytest.raises(RunnerLost, match="^rank 1: exited with code -9$"):
        made.step()


def test_a_rank_that_dies_while_there_is_nothing_to_do(llama: Prepared) -> None:
    assert llama.check is not None
    llama.check()
    [peer] = llama.runner.peers  # type: ignore[attr-defined]
    peer.process.kill()
    peer.process.wait()
    with pytest.raises(RunnerLost, match="^rank 1: exited with code -9$"):
        llama.check()


def test_a_rank_that_fails_says_why(llama: Prepared, caplog: pytest.LogCaptureFixture) -> None:
    made = engine(llama)
    made.add(add("a", [1, 2, 3], 10, ignore_eos=True))
    made.step()
    [peer] = llama.runner.peers  # type: ignore[attr-defined]
    beyond_its_pages = Chunk("b", 1000, (1,), ((0,),))
    peer.link.send(Run(StepPlan((beyond_its_pages,))))
    with pytest.raises(RunnerLost, match="^rank 1: IndexError: "):
        made.step()
    assert "rank 1 failed:\nTraceback" in caplog.text


def test_a_fault_of_the_first_rank(llama: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(plan: StepPlan) -> None:
        raise MemoryError("not enough")

    monkeypatch.setattr("pieria.engine.ranks.END_SECONDS", 0.01)
    monkeypatch.setattr(llama.runner.own, "run", run)  # type: ignore[attr-defined]
    with pytest.raises(RunnerLost, match="^rank 0: MemoryError: not enough$"):
        llama.runner.run(StepPlan((Chunk("a", 0, (1,), ((0,),)),)))


def test_a_size_that_does_not_divide_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="sizes that work: 1, 2"):
        prepare(settings(folder, tensor_parallel_size=4))


def test_a_rank_that_cannot_start_ends_the_engine(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(RunnerLost, match="^rank 1: exited with code 1$"):
        prepare(settings(folder, tensor_parallel_size=2))


PROGRAM = """#!{python}
import sys
from pieria.engine import ranks

def place(settings, mesh):
    {before}
    placed(settings, mesh)
    raise RuntimeError("a bad sector")

placed, ranks.place = ranks.place, place
ranks.main(sys.argv[3:])
"""


@pytest.mark.parametrize(
    ("before", "error", "message"),
    [
        ("raise ValueError('no room')", ValueError, "^rank 1: no room$"),
        ("pass", RunnerLost, "^rank 1: RuntimeError: a bad sector$"),
    ],
)
def test_a_rank_that_does_not_get_ready(
    before: str,
    error: type[Exception],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tiny.write_tokenizer(tiny.save(tiny.model("Llama", torch.float64), tmp_path))
    program = tmp_path / "python"
    program.write_text(PROGRAM.format(python=sys.executable, before=before))
    program.chmod(0o700)
    monkeypatch.setattr("sys.executable", str(program))
    with pytest.raises(error, match=message):
        prepare(settings(tmp_path, tensor_parallel_size=2))
