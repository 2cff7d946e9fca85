"""What llama.cpp publishes to test against: vocabularies with texts and ids, chat templates, and
the converter from safetensors.

They come in the source of a Python package, which is fetched once into the user's cache. Nothing of
it is built. Source: llama-cpp-python, vendor/llama.cpp (MIT license).
"""

import hashlib
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path, PurePosixPath

from filelock import FileLock

from pieria.models.pull import default_cache

PACKAGE = "llama-cpp-python==0.3.36"
ARCHIVE = "llama_cpp_python-0.3.36.tar.gz"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
WANTED = (
    "vendor/llama.cpp/models/",
    "vendor/llama.cpp/src/llama-vocab.cpp",
    "vendor/llama.cpp/convert_hf_to_gguf.py",
    "vendor/llama.cpp/conversion/",
    "vendor/llama.cpp/gguf-py/gguf/",
)
CONVERT = """
from conversion.base import TextModel
TextModel.get_vocab_base_pre = lambda *_: "gpt-2"  # else it knows published vocabularies only
import convert_hf_to_gguf
convert_hf_to_gguf.main()
"""


def published() -> Path:
    """The folder vendor/llama.cpp, fetched if it is not there yet: 77 MB, of which 75 are kept."""
    cache = default_cache() / "test-files"
    folder = cache / ARCHIVE.removesuffix(".tar.gz")
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / "lock"):
        if not all((folder / wanted).exists() for wanted in WANTED):
            archive = cache / ARCHIVE
            if not archive.is_file():
                _download(cache)
            _unpack(archive, folder)
            archive.unlink()
    return folder / "vendor" / "llama.cpp"


def convert(folder: Path, path: Path, *options: str) -> Path:
    """The GGUF file that llama.cpp's converter makes of a folder of safetensors, in F32."""
    options = (str(folder), "--outfile", str(path), "--outtype", "f32", *options)
    command = [sys.executable, "-c", CONVERT, *options]
    done = subprocess.run(command, cwd=published(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return path


def _download(cache: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:"]
    command += ["--disable-pip-version-check", "--no-input", "--dest", str(cache), PACKAGE]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def _unpack(archive: Path, folder: Path) -> None:
    """Via a .part folder: `folder` is complete or not there. What is not a plain file is left."""
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != SHA256:
        archive.unlink()
        raise ValueError(f"{archive.name} has the sha256 {found}, not {SHA256}")
    part = folder.with_name(folder.name + ".part")
    with tarfile.open(archive) as files:
        for member in files:
            path = PurePosixPath(*PurePosixPath(member.name).parts[1:])
            data = files.extractfile(member) if str(path).startswith(WANTED) else None
            if data is None or ".." in path.parts:
                continue
            (part / path).parent.mkdir(parents=True, exist_ok=True)
            (part / path).write_bytes(data.read())
    shutil.rmtree(folder, ignore_errors=True)
    part.replace(folder)
