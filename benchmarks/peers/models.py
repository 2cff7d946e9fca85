"""The models that all engines run, in the form that each of them reads, below a cache folder.

The same numbers everywhere: matrices in bfloat16, which OpenVINO keeps as float16 (also 16 bits);
in fewer bits as each engine's own tool makes them from those.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import LLAMA, OPENVINO, TRANSFORMERS, VLLM, llama_program
from benchmarks.peers.precisions import SIXTEEN, Precision
from pieria.models.pull import pull

CONTEXT_TOKENS = 40960
"""What every config is set to allow, so that the longest prompts fit."""

RANDOM: Mapping[str, dict[str, Any]] = {
    "llama-0.5b": {
        "model_type": "llama",
        "vocab_size": 49152,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
        "rms_norm_eps": 1e-5,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
    },
    "qwen3-0.6b": {
        "model_type": "qwen3",
        "vocab_size": 151936,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        "rms_norm_eps": 1e-6,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": True,
    },
}
"""Shapes with random weights: nothing can be tuned to them but their shape."""

OF_EXPERTS = {
    "MXFP4": (("--tensor-type", "attn=mxfp4", "--tensor-type", "ffn=mxfp4"), "MXFP4_MOE"),
}
"""Types that llama-quantize gives experts alone, unless asked: its options, and its name."""

REAL = "smollm2-135m"
NAMES = (REAL, *RANDOM)


@dataclass(frozen=True)
class Model:
    """A model on disk. folder: safetensors of 16 bits, as Hugging Face lays them out.

    paths: what each engine loads, by its name; of those that have the precision.
    """

    name: str
    precision: Precision
    folder: Path
    paths: Mapping[str, Path]

    @property
    def real(self) -> bool:
        """Whether its answers mean anything."""
        return self.name == REAL


def prepare(
    name: str,
    precision: Precision,
    wanted: Collection[str],
    cache: Path,
    pythons: Mapping[str, Path],
) -> Model:
    """Converted if that was not done before, for the engines `wanted` that have the precision.

    pythons: of the environments that are set up.
    """
    home = cache / "models" / name
    folder = _sixteen(name, home, pythons)

    def path(engine: str) -> Path:
        if engine == LLAMA.name or (engine == "pieria" and precision.same_file):
            return gguf_file(precision.gguf, home, pythons)
        if engine == OPENVINO.name:
            return _openvino(precision, home, pythons)
        if engine == VLLM.name and precision is not SIXTEEN:
            return compressed(precision.quantize, home)
        return folder

    having = [engine for engine in precision.weights if engine in wanted]
    return Model(name, precision, folder, {engine: path(engine) for engine in having})


def gguf_file(type: str, home: Path, pythons: Mapping[str, Path]) -> Path:
    """Of 16 bits as llama.cpp's converter writes it; of other types by llama-quantize from that.

    home: the model's folder, in which the one of 16 bits is.
    """
    sixteen, file = (home / "gguf" / f"{name}.gguf" for name in ("BF16", type))
    if not sixteen.exists():
        _made([*_make(pythons), "gguf", pull(REAL), home / "safetensors", "OUT"], sixteen)
    if not file.exists():
        program = llama_program("llama-quantize", pythons[LLAMA.name])
        options, asked = OF_EXPERTS.get(type, ((), type))
        _made([program, *options, sixteen, "OUT", asked], file)
    return file


def compressed(format: str, home: Path) -> Path:
    """As `pieria quantize` writes it."""
    folder = home / f"compressed-tensors-{format}"
    if not folder.exists():
        write = [sys.executable, "-m", "pieria.cli", "quantize", home / "safetensors"]
        _made([*write, "--to", format, "--output", "OUT"], folder)
    return folder


def _sixteen(name: str, home: Path, pythons: Mapping[str, Path]) -> Path:
    folder = home / "safetensors"
    if not folder.exists():
        kind, rest = "convert", [str(CONTEXT_TOKENS)]
        if name in RANDOM:
            home.mkdir(parents=True, exist_ok=True)
            config = home / "config.json"
            config.write_text(json.dumps(RANDOM[name]))
            kind, rest = "random", [*rest, str(config)]
        _made([*_make(pythons), kind, pull(REAL), "OUT", *rest], folder)
    return folder


def _openvino(precision: Precision, home: Path, pythons: Mapping[str, Path]) -> Path:
    folder = home / f"openvino-{precision.name}"
    if not folder.exists():
        export = [pythons[OPENVINO.name].parent / "optimum-cli", "export", "openvino"]
        task = ["--task", "text-generation-with-past", *precision.openvino]
        _made([*export, "--model", home / "safetensors", *task, "OUT"], folder)
    return folder


def _make(pythons: Mapping[str, Path]) -> list[Any]:
    return [pythons[TRANSFORMERS.name], Path(__file__).parent / "workers" / "make_model.py"]


def _made(command: list[Any], place: Path) -> None:
    """Run what writes to OUT; nothing is at `place` unless all of it is."""
    print(f"making {place}", file=sys.stderr, flush=True)
    beside = place.with_name(f"{place.name}.part")
    if beside.is_dir():
        shutil.rmtree(beside)
    beside.parent.mkdir(parents=True, exist_ok=True)
    arguments = [str(beside if part == "OUT" else part) for part in command]
    subprocess.run(arguments, check=True, stdout=sys.stderr)
    beside.rename(place)
