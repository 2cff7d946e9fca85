"""The models that all engines run, in the form that each of them reads, below a cache folder.

The same numbers everywhere: matrices in bfloat16, which OpenVINO keeps as float16 (also 16 bits).
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import OPENVINO, TRANSFORMERS
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

REAL = "smollm2-135m"
NAMES = (REAL, *RANDOM)


@dataclass(frozen=True)
class Model:
    """A model on disk, thrice. folder: safetensors, as Hugging Face lays them out."""

    name: str
    folder: Path
    gguf: Path
    openvino: Path

    @property
    def real(self) -> bool:
        """Whether its answers mean anything."""
        return self.name == REAL


def prepare(name: str, cache: Path, pythons: Mapping[str, Path]) -> Model:
    """Converted if that was not done before. pythons: of the environments that are set up."""
    folder = cache / "models" / name
    model = Model(name, folder / "safetensors", folder / "model.gguf", folder / "openvino")
    source = pull(REAL)
    make = [pythons[TRANSFORMERS.name], Path(__file__).parent / "workers" / "make_model.py"]
    if not model.folder.exists():
        kind, rest = "convert", [str(CONTEXT_TOKENS)]
        if name in RANDOM:
            folder.mkdir(parents=True, exist_ok=True)
            config = folder / "config.json"
            config.write_text(json.dumps(RANDOM[name]))
            kind, rest = "random", [*rest, str(config)]
        _made([*make, kind, source, "OUT", *rest], model.folder)
    if not model.gguf.exists():
        _made([*make, "gguf", source, model.folder, "OUT"], model.gguf)
    if OPENVINO.name in pythons and not model.openvino.exists():
        export = [pythons[OPENVINO.name].parent / "optimum-cli", "export", "openvino"]
        task = ["--task", "text-generation-with-past", "--weight-format", "fp16"]
        _made([*export, "--model", model.folder, *task, "OUT"], model.openvino)
    return model


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
