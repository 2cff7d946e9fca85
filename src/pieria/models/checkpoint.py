"""A model on disk, however it is stored: config, tokenizer, chat template and tensors.

Knows file names and formats; torch-free but for `tensors`. Does not know what a config means or
where a tensor belongs. Nothing in a checkpoint is run: pickles are refused, Python code is ignored.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pieria.models import safetensors_file
from pieria.models.gguf import GgufFile
from pieria.models.gguf_config import hf_config
from pieria.models.gguf_parts import part_names, read_gguf_parts
from pieria.models.json_file import read_bounded, read_json
from pieria.models.stored_tensor import NumberFormat
from pieria.models.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pieria.models.tensor_reader import TensorReader
    from pieria.ops import Weight

TOKENIZERS = ("tokenizer.json", "tokenizer.model")
"""Files that hold a tokenizer, the one that is read if both are there first."""

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class TensorFile(Protocol):
    """Tensors by name, read piece by piece."""

    def names(self) -> list[str]:
        """All of them, as the file calls them."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Row-major, as a torch tensor would have it. ValueError for an unknown name."""

    def blocks(self, name: str) -> NumberFormat | None:
        """How the tensor's numbers are stored, if they are in blocks that can be read as bytes."""

    def read_into(self, name: str, out: "Tensor", first: Sequence[int] = ()) -> None:
        """Copy a box of the tensor into `out`, in out's dtype; in uint8 a block's bytes stand for
        its elements, also in `first`.

        The box has out's shape and begins at element `first`; where that is empty, at the tensor's
        own first. Extra memory stays a few MiB, however large the tensor.
        """

    def held(
        self,
        name: str,
        shape: Sequence[int],
        first: Sequence[int],
        dtype: "torch.dtype",
        turned: bool = False,
    ) -> "Weight | None":
        """Such a box in fewer bits as the file has it, for a model that computes in `dtype`.

        turned: with its last two dimensions the other way round. None where the file has plain
        numbers or there is no format for the box. ValueError if it separates what shares a scale.
        """


@dataclass(frozen=True)
class Checkpoint:
    """config: the parsed config.json, or what it would be. notes: what a user should know.

    generation_config: the parsed generation_config.json, {} if there is none.
    """

    path: Path
    format: Literal["safetensors", "gguf"]
    config: dict[str, Any]
    generation_config: dict[str, Any]
    chat_template: str | None
    notes: tuple[str, ...] = ()
    gguf: GgufFile | None = field(default=None, repr=False)

    def tokenizer(self) -> Tokenizer:
        """Loaded once. ValueError if there is none, or one of an unsupported kind."""
        return self._tokenizer

    def tensors(self) -> "TensorReader":
        """Imports torch. ValueError if a file is missing or damaged."""
        from pieria.models.tensor_reader import TensorReader

        if self.gguf is not None:
            return TensorReader(self.gguf.tensors)
        files = safetensors_file.shards(self.path)
        return TensorReader(safetensors_file.read_shards(files))

    @property
    def stop_ids(self) -> frozenset[int]:
        """The tokens that end a generation: what config, generation config and tokenizer say."""
        found: set[int] = set()
        for source in (self.config, self.generation_config):
            ids = source.get("eos_token_id")
            found.update(i for i in (ids if isinstance(ids, list) else [ids]) if type(i) is int)
        if self.gguf is not None:
            ends = ("eot", "eom")  # of a turn, of a message
            ids = [self.gguf.metadata.get(f"tokenizer.ggml.{end}_token_id") for end in ends]
            found.update(i for i in ids if type(i) is int)
        eos = self.tokenizer().eos
        return frozenset(found if eos is None else found | {eos})

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        if self.gguf is not None:
            return Tokenizer.from_gguf(self.gguf.metadata, str(self.path))
        config = _optional(self.path / "tokenizer_config.json")
        if (self.path / "tokenizer.json").is_file():
            return Tokenizer.from_json(self.path / "tokenizer.json", config)
        if (self.path / "tokenizer.model").is_file():
            added = _optional(self.path / "added_tokens.json")
            return Tokenizer.from_sentencepiece(self.path / "tokenizer.model", config, added)
        raise ValueError(
            f"{self.path}: there is neither a tokenizer.json nor a tokenizer.model;"
            " other tokenizers are not supported"
        )


def open_checkpoint(path: Path) -> Checkpoint:
    """The model at `path`.

    path: a directory with config.json and safetensors, a .gguf file or any part of one that was cut
    into several, or a directory with just that. ValueError, saying what is wrong and what would be
    right, for anything else.
    """
    if path.is_file():
        if path.suffix != ".gguf":
            raise ValueError(
                f"{path}: not a checkpoint; give a .gguf file or a directory with config.json"
            )
        return _open_gguf(path)
    if not path.is_dir():
        raise ValueError(f"{path}: there is no such file or directory")
    files = sorted(path.glob("*.gguf"))
    if (path / "config.json").is_file() and not (files and not any(path.glob("*.safetensors"))):
        return _open_directory(path)
    if len(files) == 1 or files and part_names(files[0].name) == [file.name for file in files]:
        return _open_gguf(files[0])
    if files:
        names = ", ".join(file.name for file in files)
        raise ValueError(f"{path}: holds several GGUF files; give one of them: {names}")
    raise ValueError(f"{path}: there is neither a config.json nor a .gguf file")


def _open_directory(path: Path) -> Checkpoint:
    try:
        safetensors_file.shards(path)
    except ValueError as error:
        pickled = sorted(f.name for f in path.iterdir() if f.suffix in PICKLED)
        if not pickled or any(path.glob("*.safetensors*")):
            raise
        raise ValueError(
            f"{path}: the weights are only there as {pickled[0]}, a pickle, and loading one runs"
            " code that is in it; convert them to safetensors first"
        ) from error
    config = read_json(path / "config.json")
    notes = []
    if "auto_map" in config:
        notes.append(
            "auto_map in config.json is ignored: code of a model's repository is never run"
        )
    if "vision_config" in config:
        notes.append("only text is read and written: the vision part (vision_config) is left out")
    if config.get("num_nextn_predict_layers"):
        notes.append(
            "layers that predict further tokens (num_nextn_predict_layers in config.json) are not"
            " read"
        )
    return Checkpoint(
        path,
        "safetensors",
        config,
        _optional(path / "generation_config.json"),
        _chat_template(path),
        tuple(notes),
    )


def _open_gguf(path: Path) -> Checkpoint:
    file = read_gguf_parts(path)
    template = file.metadata.get("tokenizer.chat_template")
    if template is not None and not isinstance(template, str):
        raise ValueError(f"{path}: tokenizer.chat_template is not a string")
    return Checkpoint(file.path, "gguf", hf_config(file), {}, template, gguf=file)


def _chat_template(path: Path) -> str | None:
    """chat_template.jinja, else the (default) chat_template of tokenizer_config.json."""
    file = path / "chat_template.jinja"
    if file.is_file():
        try:
            return read_bounded(file).decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{file}: not UTF-8: {error}") from None
    config = path / "tokenizer_config.json"
    template = _optional(config).get("chat_template")
    if isinstance(template, list):
        default = [t for t in template if isinstance(t, dict) and t.get("name") == "default"]
        if not default:
            raise ValueError(f"{config}: none of the {len(template)} chat templates is the default")
        template = default[0].get("template")
    if template is not None and not isinstance(template, str):
        raise ValueError(f"{config}: chat_template is {type(template).__name__}, not a string")
    return template


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
