"""`pieria bench throughput` on a small model."""

import json
from pathlib import Path

import pytest

from pieria import cli
from pieria.bench.throughput import Throughput
from tests.models import tiny

FAST = ("--dtype=float32", "--kv-cache-memory-bytes=4MiB", "--threads=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    tiny.write_tokenizer(tiny.save(tiny.model("Llama"), path))
    return path


def test_every_token_is_counted(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lengths = ("--input-len=6", "--prefix-len=2", "--output-len=3", "--num-prompts=5")
    file = tmp_path / "sub" / "t.json"
    assert (
        cli.main(
            ["bench", "throughput", f"--model={folder}", *lengths, *FAST, f"--output-json={file}"]
        )
        == 0
    )
    shown = capsys.readouterr().out
    assert "5 requests, 40 + 15 tokens" in shown
    found = json.loads(file.read_text())
    assert (found["num_requests"], found["total_num_tokens"]) == (5, 55)
    assert found["tokens_per_second"] == pytest.approx(55 / found["elapsed_time"])
    assert found["output_tokens_per_second"] == pytest.approx(15 / found["elapsed_time"])


@pytest.mark.parametrize("options", [("--dataset-name=multi-turn",), ("--no-tokenize-prompt",)])
def test_what_needs_a_server(
    options: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", "throughput", f"--model={folder}", *options]) == 2
    assert "in one process there are random and shared-prefix" in capsys.readouterr().err


def test_rates() -> None:
    found = str(Throughput(requests=4, seconds=2.0, input_tokens=100, output_tokens=20))
    assert "2.00 requests/s, 60.00 total tokens/s, 10.00 output tokens/s" in found
