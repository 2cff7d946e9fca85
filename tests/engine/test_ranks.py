"""Two tensor parallel processes over gloo give the tokens of one, and end together."""

import re
import socket
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from pieria.engine.engine import Engine, RunnerLost
from pieria.engine.prefix_cache import PrefixCache
from pieria.engine.process import Prepared
from pieria.engine.ranks import loopback_store, prepare
from pieria.engine.runner_config import RunnerConfig
from pieria.engine.scheduler import Scheduler, SchedulerConfig
from tests.engine.real import add, naive, run, tokens_of
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
    sizes = {f"{request.param}_parallel_size": 2}
    prepared = prepare(settings(folder, threads=1, **sizes))
    yield prepared
    prepared.runner.close()


def engine(prepared: Prepared) -> Engine:
    cache = PrefixCache(prepared.pages, prepared.page_tokens)
    scheduler = Scheduler(SCHEDULING, cache, prepared.stop_ids, prepared.max_model_len)
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


def test_a_rank_that_dies_ends_the_engine(ranks: Prepared) -> None:
    made = engine(ranks)
    made.add(add("a", [1, 2, 3], 10, ignore_eos=True))
    made.step()
    [process] = ranks.runner.processes  # type: ignore[attr-defined]
    process.kill()
    process.wait()
    with pytest.raises(RunnerLost, match=re.escape("rank 1 exited with code -9")):
        made.step()


def test_a_size_that_does_not_divide_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="sizes that work: 1, 2"):
        prepare(settings(folder, tensor_parallel_size=4))


def test_a_rank_that_cannot_start_ends_the_engine(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(RunnerLost, match="rank 1 exited with code 1 at its start"):
        prepare(settings(folder, tensor_parallel_size=2))
