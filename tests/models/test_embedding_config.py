"""What the files beside a model say of its embeddings."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pieria.models.checkpoint import Checkpoint
from pieria.models.embedding_config import EmbeddingConfig, embedding_config
from pieria.models.gguf import GgufFile
from tests.models.embedders import pooled


def read(folder: Path) -> EmbeddingConfig | None:
    return embedding_config(Checkpoint(folder, "safetensors", {}, {}, None))


def change(file: Path, **changes: Any) -> None:
    keys = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**keys, **changes}))


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_old_and_new_files(pooling: str, normalize: bool, older: bool, tmp_path: Path) -> None:
    pooled(tmp_path, pooling, normalize=normalize, older=older, max_seq_length=256)
    assert read(tmp_path) == EmbeddingConfig(pooling, normalize, 256)  # type: ignore[arg-type]


def test_files_that_say_nothing(tmp_path: Path) -> None:
    assert read(tmp_path) is None
    pooled(tmp_path, "last", normalize=False)
    assert read(tmp_path) == EmbeddingConfig("last", False, None)
    (tmp_path / "modules.json").write_text(
        json.dumps([{"type": "a.Transformer", "path": ""}, {"type": "a.LogitScore", "path": "1"}])
    )
    assert read(tmp_path) is None


def test_prompts(tmp_path: Path) -> None:
    pooled(tmp_path, "last", normalize=True)
    file = tmp_path / "config_sentence_transformers.json"
    change(file, prompts={"query": "Query: ", "document": ""}, default_prompt_name=None)
    found = read(tmp_path)
    assert found is not None
    assert [found.prompt(name) for name in ("query", "document", None)] == ["Query: ", "", ""]
    with pytest.raises(ValueError, match="prompt_name='q'; the model's prompts are: query, docum"):
        found.prompt("q")
    change(file, default_prompt_name="query")
    again = read(tmp_path)
    assert again is not None and again.prompt(None) == "Query: "


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("1_Pooling/config.json", {"pooling_mode": "max"}, "pooling_mode='max' is not supported"),
        ("1_Pooling/config.json", {"include_prompt": False}, "include_prompt=False: prompts are"),
        (
            "1_Pooling/config.json",
            {"pooling_mode": None, "pooling_mode_max_tokens": True},
            "pooling by pooling_mode_max_tokens is not supported; one of pooling_mode_mean_tok",
        ),
        ("1_Pooling/config.json", {"pooling_mode": None}, "pooling by nothing is not supported"),
        ("sentence_bert_config.json", {"do_lower_case": True}, "do_lower_case=True: a tokenizer"),
        ("sentence_bert_config.json", {"max_seq_length": 0}, "max_seq_length=0 must be a positive"),
        (
            "config_sentence_transformers.json",
            {"prompts": ["a"]},
            "prompts=['a'] with default_prom",
        ),
        (
            "config_sentence_transformers.json",
            {"prompts": {"a": "b"}, "default_prompt_name": "c"},
            "with default_prompt_name='c'",
        ),
    ],
)
def test_what_is_not_supported_is_named(
    file: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    pooled(tmp_path, "mean", normalize=True)
    change(tmp_path / file, **changes)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read(tmp_path)
    assert str(tmp_path / file) in str(caught.value)


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ("{}", "expected a JSON array, found dict"),
        ('[{"type": "a.Transformer"}]', "must have a type, and a path below this folder"),
        ('[{"type": "a.Pooling", "path": "../.."}]', "must have a type, and a path below this"),
        ('[{"type": "a.Pooling", "path": "/etc"}]', "must have a type, and a path below this"),
        (
            '[{"type": "Transformer", "path": ""}, {"type": "Pooling", "path": "1_Pooling"},'
            ' {"type": "a.Dense", "path": "2_Dense"}]',
            "the modules Transformer, Pooling, Dense are not supported",
        ),
    ],
)
def test_modules_that_are_not_supported_are_named(
    modules: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "modules.json").write_text(modules)
    with pytest.raises(ValueError, match=re.escape(message)):
        read(tmp_path)


@pytest.mark.parametrize(
    ("kind", "pooling"),
    [(1, "mean"), (2, "first"), (3, "last"), (0, None), (4, None), (None, None)],
)
def test_gguf(kind: int | None, pooling: Any) -> None:
    metadata = {"general.architecture": "qwen3", "qwen3.pooling_type": kind}
    file = GgufFile(Path("x"), 3, metadata, {})
    found = embedding_config(Checkpoint(Path("x"), "gguf", {}, {}, None, gguf=file))
    assert found == (None if pooling is None else EmbeddingConfig(pooling, True))
