"""How hidden states become embeddings, as the files beside a model say it.

Source: sentence-transformers, whose modules.json lists what follows on the model; for GGUF the
`pooling_type` of llama.cpp, which brings embeddings to unit length.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pieria.models.checkpoint import Checkpoint
from pieria.models.json_file import read_json, read_json_list
from pieria.models.keys import Keys
from pieria.ops.pool import Pooling

GGUF_POOLING: Mapping[object, Pooling] = {1: "mean", 2: "first", 3: "last"}
"""enum llama_pooling_type of llama.h; 0 is none, 4 a score of its own."""

POOLING: Mapping[str, Pooling] = {"mean": "mean", "cls": "first", "lasttoken": "last"}
"""pooling_mode of newer files."""

POOLING_FLAGS: Mapping[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "first",
    "pooling_mode_lasttoken": "last",
}
"""Flags of older files, of which one is true."""

OTHER_FLAGS = (
    "pooling_mode_max_tokens",
    "pooling_mode_mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens",
)


@dataclass(frozen=True)
class EmbeddingConfig:
    """pooling: which of a text's hidden states are taken. normalize: to unit length after that.

    max_tokens: of a text; None: as many as the model takes. prompts: what is put before texts of a
    kind, by the kind's name; default_prompt: the kind of texts of which nothing is said.
    """

    pooling: Pooling
    normalize: bool
    max_tokens: int | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None

    def prompt(self, name: str | None) -> str:
        """What to put before a text. ValueError, naming those there are, for an unknown name."""
        name = self.default_prompt if name is None else name
        if name is not None and name not in self.prompts:
            known = ", ".join(self.prompts) or "none"
            raise ValueError(f"prompt_name={name!r}; the model's prompts are: {known}")
        return "" if name is None else self.prompts[name]


def embedding_config(checkpoint: Checkpoint) -> EmbeddingConfig | None:
    """None if the files do not speak of pooling.

    ValueError, naming file, key and value, for what is not supported.
    """
    if checkpoint.gguf is not None:
        metadata = checkpoint.gguf.metadata
        kind = metadata.get(f"{metadata['general.architecture']}.pooling_type")
        return EmbeddingConfig(GGUF_POOLING[kind], True) if kind in GGUF_POOLING else None
    if not (checkpoint.path / "modules.json").is_file():
        return None
    folders = _modules(checkpoint.path / "modules.json")
    if "Pooling" not in folders:
        return None
    bert = _keys(checkpoint.path / "sentence_bert_config.json")
    bert.refuse("do_lower_case", "a tokenizer must do that itself")
    texts = _keys(checkpoint.path / "config_sentence_transformers.json")
    prompts = texts.values.get("prompts") or {}
    default = texts.values.get("default_prompt_name")
    known = isinstance(prompts, Mapping) and all(isinstance(p, str) for p in prompts.values())
    if not known or (default is not None and default not in prompts):
        raise ValueError(
            f"{texts.source}: prompts={prompts!r} with default_prompt_name={default!r}:"
            " prompts must be texts by name, and the default one of them"
        )
    return EmbeddingConfig(
        _pooling(_keys(checkpoint.path / folders["Pooling"] / "config.json")),
        "Normalize" in folders,
        bert.integer("max_seq_length") if bert.has("max_seq_length") else None,
        prompts,
        default,
    )


def _modules(path: Path) -> dict[str, str]:
    """Kind of module -> its folder. The kinds are the ends of Python names."""
    found: dict[str, str] = {}
    for entry in read_json_list(path):
        named = isinstance(entry, Mapping) and all(
            isinstance(entry.get(key), str) for key in ("type", "path")
        )
        if not named or ".." in Path(entry["path"]).parts or Path(entry["path"]).is_absolute():
            raise ValueError(f"{path}: {entry!r} must have a type, and a path below this folder")
        found[entry["type"].rpartition(".")[2]] = entry["path"]
    known = ["Transformer", "Pooling", "Normalize"]
    if "Pooling" in found and list(found) not in (known, known[:2]):
        raise ValueError(
            f"{path}: the modules {', '.join(found)} are not supported;"
            " supported are: Transformer, Pooling, and Normalize or nothing"
        )
    return found


def _pooling(keys: Keys) -> Pooling:
    keys.refuse("include_prompt", "prompts are always pooled too", (None, True))
    if keys.has("pooling_mode"):
        found: Pooling = keys.choice("pooling_mode", POOLING)
        return found
    flags = [flag for flag in (*POOLING_FLAGS, *OTHER_FLAGS) if keys.flag(flag, False)]
    if len(flags) != 1 or flags[0] not in POOLING_FLAGS:
        raise ValueError(
            f"{keys.source}: pooling by {', '.join(flags) or 'nothing'} is not supported;"
            f" one of {', '.join(POOLING_FLAGS)} must be true"
        )
    return POOLING_FLAGS[flags[0]]


def _keys(path: Path) -> Keys:
    """The keys of a file that may be missing."""
    return Keys(read_json(path) if path.is_file() else {}, str(path))
