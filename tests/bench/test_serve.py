"""`pieria bench serve` as a user runs it: on a server that is there, and on one it starts."""

import json
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pieria import cli
from tests.bench.fake_server import Body, Events, letters, serving
from tests.models import tiny

LENGTHS = ("--random-input-len=6", "--random-output-len=3", "--num-prompts=5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    tiny.write_tokenizer(tiny.save(tiny.model("Llama"), path))
    return path


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """No server outlives its benchmark."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    after = {child.pid for child in psutil.Process().children(recursive=True)}
    assert after <= before


@pytest.mark.slow
def test_a_server_of_its_own(folder: Path, tmp_path: Path, nothing_left: None) -> None:
    engine = ("--dtype=float32", "--kv-cache-memory-bytes=4MiB", "--threads=1")
    report = (
        *("--save-result", "--save-detailed", f"--result-dir={tmp_path}"),
        *("--result-filename=r.json", f"--plot={tmp_path / 'p.svg'}", "--goodput", "ttft:60000"),
    )
    done = cli.main(
        [
            "bench",
            "serve",
            f"--model={folder}",
            *LENGTHS,
            *engine,
            *report,
            "--max-concurrency",
            "1",
            "4",
        ]
    )
    assert done == 0
    saved = json.loads((tmp_path / "r.json").read_text())
    assert (saved["model_id"], saved["num_prompts"]) == (str(folder), 5)
    assert [run["max_concurrency"] for run in saved["runs"]] == [1, 4]
    for run in saved["runs"]:
        assert (run["completed"], run["failed"]) == (5, 0)
        assert (run["total_input_tokens"], run["total_output_tokens"]) == (30, 15)
        assert run["output_lens"] == [3] * 5
        assert run["request_goodput"] == run["request_throughput"] > 0
        assert 0 < run["median_ttft_ms"] <= run["p99_ttft_ms"]
        assert run["median_e2el_ms"] >= run["median_ttft_ms"]
    assert "<svg" in (tmp_path / "p.svg").read_text()


async def test_a_server_that_is_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with serving() as server:
        done = await _run(folder, server.url, "--max-concurrency=2", "--percentile-metrics=ttft")
    assert done == 0
    prompts = [tuple(body["prompt"]) for body in server.bodies]
    assert len(set(prompts)) == 6  # with one to warm up
    assert {len(prompt) for prompt in prompts} == {6}
    shown = capsys.readouterr().out
    assert "2 at a time" in shown and "time to first token, p99, ms" in shown
    assert "inter-token" not in shown


async def test_what_failed_is_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calls = iter(range(100))

    def answer(body: Body) -> Events:
        if next(calls) in (2, 4):
            yield {"status": 503, "error": {"error": {"message": "come back later"}}}
        else:
            yield from letters(body)

    async with serving(answer) as server:
        assert await _run(folder, server.url) == 1
    shown = capsys.readouterr()
    assert "2 failed: 503: come back later" in shown.err
    [line] = [line for line in shown.out.splitlines() if "requests failed" in line]
    assert [cell.strip() for cell in line.split("│")[1:3]] == ["requests failed", "2"]


async def test_a_server_that_refuses_at_once(folder: Path) -> None:
    def answer(body: Body) -> Events:
        yield {"status": 400, "error": {"error": {"message": "prompt must be a string"}}}

    async with serving(answer) as server:
        with pytest.raises(RuntimeError, match="prompt must be a string; .*--no-tokenize-prompt"):
            await _run(folder, server.url)
    assert len(server.bodies) == 1


def test_options_that_do_not_go_together(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = ["bench", "serve", f"--model={folder}", "--base-url=http://127.0.0.1:1"]
    assert cli.main([*there, "--dtype=float32"]) == 2
    assert "options of the engine are for a server that is started here" in capsys.readouterr().err
    trace = folder / "trace.jsonl"
    trace.write_text('{"timestamp": 0, "input_length": 1, "output_length": 1}\n')
    asked = ["--dataset-name=trace", f"--dataset-path={trace}", "--request-rate=1"]
    assert cli.main([*there, *asked]) == 2
    assert "a trace says when requests come" in capsys.readouterr().err
    assert cli.main(there) == 1
    assert "v1/models: ConnectionRefusedError" in capsys.readouterr().err


async def _run(folder: Path, url: str, *options: str) -> int:
    """In a thread, since the command has an event loop of its own."""
    import asyncio

    arguments = ["bench", "serve", f"--model={folder}", f"--base-url={url}", *LENGTHS, *options]
    return await asyncio.to_thread(cli.main, arguments)
