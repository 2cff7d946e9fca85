"""Commands and the workers' protocol, with an engine of a few lines in the engines' place."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.peers import engines
from benchmarks.peers.models import CONTEXT_TOKENS, Model
from benchmarks.peers.precisions import PRECISIONS, SIXTEEN, Precision
from benchmarks.peers.sessions import EngineFailed, Worker
from benchmarks.peers.work import WORKS
from pieria.kernels.cpu import native
from pieria.models.quantization import NAMES as QUANTIZE

ECHO = """
import sys, time
from protocol import serve

def load(model, settings):
    print("engines print what they like")
    def generate(prompts, tokens):
        if tokens == 13:
            sys.exit("out of luck")
        return [prompt[:tokens] for prompt in prompts]
    return generate

serve(load)
"""


@pytest.fixture
def model(tmp_path: Path) -> Model:
    paths = {name: tmp_path / name for name in (*engines.NAMES, "echo")}
    return Model("toy", SIXTEEN, tmp_path, paths)


@pytest.fixture
def worker(tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> Worker:
    protocol = (engines.WORKERS / "protocol.py").read_text()
    (tmp_path / "protocol.py").write_text(protocol)
    (tmp_path / "run_echo.py").write_text(ECHO)
    monkeypatch.setattr(engines, "WORKERS", tmp_path)
    return Worker("echo", Path(sys.executable), model, 1, tmp_path / "log")


def test_a_worker(worker: Worker) -> None:
    seconds, outputs = worker.generate([[1, 2, 3], [4, 5, 6]], 2)
    assert outputs == [[1, 2], [4, 5]]
    assert 0 <= seconds < 60
    worker.hold()
    worker.resume()
    assert worker.generate([[7]], 1)[1] == [[7]]
    worker.hold()
    worker.close()  # one that is held still, too


def test_a_worker_that_ends(worker: Worker) -> None:
    with pytest.raises(EngineFailed, match="it ended with exit code 1: out of luck"):
        worker.generate([[1]], 13)
    with pytest.raises(EngineFailed, match="exit code 1"):
        worker.generate([[1]], 1)
    worker.close()


@pytest.mark.parametrize("engine", engines.ENGINES, ids=lambda engine: engine.name)
def test_every_engine_has_what_it_is_started_with(engine: engines.Engine, model: Model) -> None:
    if engine.name != "llama.cpp":  # which has programs for that
        assert (engines.WORKERS / f"run_{engine.name}.py").exists()
        assert json.dumps(engines.worker_settings(engine.name, "none", 2))
    assert engine.serves == (engine.name in engines.READY)


@pytest.mark.parametrize(
    ("available", "precision"),
    [(["avx512_bf16", "avx512"], "bf16"), (["avx512", "avx512_bf16"], "f32"), ([], "f32")],
)
def test_openvino_computes_in_what_serves_it_best(
    available: list[str], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "available", lambda: available)
    settings = engines.worker_settings("openvino", "none", 2)
    assert settings["device"]["INFERENCE_PRECISION_HINT"] == precision


def test_the_servers_get_the_same_cache_and_context(model: Model, tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    ours = engines.server_command("pieria", python, model, 1, 2, 4, 100)
    assert ours[ours.index("--kv-cache-memory-bytes") + 1] == "4GiB"
    theirs = engines.server_command("vllm", python, model, 1, 2, 4, 100)
    assert theirs[theirs.index("--max-model-len") + 1] == str(CONTEXT_TOKENS)
    assert engines.environment("vllm", 2)["VLLM_CPU_KVCACHE_SPACE"] == "4"
    assert "PYTHONPATH" not in engines.environment("vllm", 2)
    for command in (ours, theirs):
        assert command[command.index("--dtype") + 1] == "bfloat16"
        assert command[command.index("--max-num-seqs") + 1] == "128"


@pytest.mark.parametrize("precision", PRECISIONS, ids=lambda precision: precision.name)
def test_a_precision_has_a_peer_and_pieria_is_told(precision: Precision, model: Model) -> None:
    assert precision.weights.keys() <= set(engines.NAMES)
    assert "pieria" in precision.weights and len(precision.weights) > 1
    assert engines.worker_settings("pieria", precision.quantize, 2)["quantize"] in QUANTIZE
    asked = replace(model, precision=precision)
    command = engines.server_command("pieria", Path("python"), asked, 1, 2, 4, 100)
    assert command[command.index("--quantize") + 1] == precision.quantize
    known = {work.name for work in WORKS}
    assert precision.aims is None or precision.aims.keys() <= known
