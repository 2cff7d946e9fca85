"""`pieria serve` over several processes: the tokens of one, also after one of them dies."""

import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import torch

from pieria import LLM, SamplingParams
from tests.models import tiny
from tests.test_cli import Serve, until

pytestmark = pytest.mark.dist

MOE = {
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 40,
    "norm_topk_prob": True,
    "head_dim": 24,
}
TP, PP, EP = (f"--{axis}-parallel-size=2" for axis in ("tensor", "pipeline", "expert"))
PROMPTS = [list(range(i, 4 * i + 9)) for i in range(5)]
COMPLETIONS = "/v1/completions"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tiny.write_tokenizer(tiny.save(tiny.model("Qwen3Moe", torch.float64, **MOE), path))
    return path


@pytest.fixture(scope="module")
def wanted(folder: Path) -> list[list[int]]:
    """What one process says."""
    options: dict[str, Any] = {"device": "cpu", "threads": 1, "kv_cache_memory_bytes": 1 << 20}
    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    with LLM(str(folder), dtype="float64", **options) as llm:
        outputs = llm.generate(PROMPTS, params, progress=False)
    return [output.outputs[0].token_ids for output in outputs]


def serve(folder: Path, log: Path, *sizes: str) -> Serve:
    return Serve(folder, log, "--dtype=float64", *sizes)


def ranks_of(server: Serve) -> list[psutil.Process]:
    """The engine's processes besides the first."""
    return [p for p in server.engine.children() if "pieria.engine.ranks" in p.cmdline()]


def ask(url: str, prompt: list[int]) -> Any:
    body = {"model": "tiny", "prompt": prompt, "temperature": 0, "max_tokens": 8}
    body |= {"ignore_eos": True, "return_token_ids": True}
    answer = httpx.post(url + COMPLETIONS, json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["token_ids"]


def ask_all(url: str) -> list[Any]:
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        return list(pool.map(lambda prompt: ask(url, prompt), PROMPTS))


def test_tensor_ranks_end_in_order(folder: Path, wanted: list[list[int]], tmp_path: Path) -> None:
    with serve(folder, tmp_path / "log", TP) as server:
        [rank] = ranks_of(server)
        assert ask_all(server.url) == wanted
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=60) == 0
        assert " ERROR " not in server.said and "Traceback" not in server.said
        assert not rank.is_running()


def test_expert_ranks_of_which_one_is_killed_while_nobody_asks(
    folder: Path, wanted: list[list[int]], tmp_path: Path
) -> None:
    with serve(folder, tmp_path / "log", EP) as server:
        [rank] = ranks_of(server)
        assert ask_all(server.url) == wanted
        rank.kill()
        until(lambda: "rank 1: exited with code -9; another takes its place" in server.said, 180)
        assert ask_all(server.url) == wanted


def test_pipeline_ranks_of_which_the_first_is_killed(
    folder: Path, wanted: list[list[int]], tmp_path: Path
) -> None:
    with serve(folder, tmp_path / "log", PP) as server:
        [rank] = ranks_of(server)
        assert ask_all(server.url) == wanted
        server.engine.kill()
        until(lambda: "ended with exit code -9; another takes its place" in server.said, 180)
        assert ask_all(server.url) == wanted
        until(lambda: not rank.is_running())


def test_a_grid_of_ranks_of_which_one_is_killed_in_a_step(folder: Path, tmp_path: Path) -> None:
    with serve(folder, tmp_path / "log", TP, EP) as server:
        ranks = ranks_of(server)
        assert len(ranks) == 3
        whole = list(streamed(server.url))
        lines = streamed(server.url)
        begun = [next(lines), next(lines)]
        ranks[1].kill()
        assert texts([*begun, *lines]) == texts(whole)
        assert "rank 2: exited with code -9; another takes its place" in server.said
        until(lambda: not any(rank.is_running() for rank in ranks))


def streamed(url: str) -> Iterator[str]:
    """The events of a long answer."""
    body = {"model": "tiny", "prompt": "Hi", "stream": True, "max_tokens": 300, "temperature": 0}
    body |= {"ignore_eos": True}
    with httpx.stream("POST", url + COMPLETIONS, json=body, timeout=120) as answer:
        yield from (line.removeprefix("data: ") for line in answer.iter_lines() if line)


def texts(events: list[str]) -> str:
    assert events[-1] == "[DONE]"
    return "".join(json.loads(event)["choices"][0]["text"] for event in events[:-1])
