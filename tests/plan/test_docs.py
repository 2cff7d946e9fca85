"""docs/PLAN.md: what it tells people to type can be typed, and the example runs."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pieria import cli

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "PLAN.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line)
    for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    for line in block.splitlines()
]
OURS = [words[1:] for words in COMMANDS if words[0] == "pieria"]
PLANS = [words for words in OURS if words[0] != "serve"]


def test_there_are_commands() -> None:
    assert len(OURS) >= 6 and len(PLANS) == len(OURS) - 1
    assert ["python", "examples/plan_serving.py"] in COMMANDS


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_options_are_known(words: list[str]) -> None:
    cli._parser().parse_args(words)


@pytest.mark.slow
@pytest.mark.parametrize("words", PLANS, ids=" ".join)
def test_commands_run(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 0


@pytest.mark.parametrize("name", re.findall(r"`(plan\.[a-z_]+)\.([A-Za-z_]+)`", TEXT))
def test_names_are_there(name: tuple[str, str]) -> None:
    module = __import__(f"pieria.{name[0]}", fromlist=[name[1]])
    assert hasattr(module, name[1])


def test_the_example(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    command = [sys.executable, str(ROOT / "examples" / "plan_serving.py"), str(page)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^TP2: TTFT \d+ ms \(at worst \d+\), TPOT \d+\.\d ms", done.stdout)
    assert "DP2: TTFT" in done.stdout and "inferred: bfloat16 peak 500 TFLOP/s" in done.stdout
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
