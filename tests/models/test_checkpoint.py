"""Checkpoints as they lie on disks, whole and broken."""

import json
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from pieria.models.checkpoint import open_checkpoint
from tests.models.gguf_bytes import ARRAY, STRING, U32, file, pair, text


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def strings(*values: str) -> bytes:
    return struct.pack("<IQ", STRING, len(values)) + b"".join(text(v) for v in values)


GGUF_PAIRS = [
    pair("general.architecture", STRING, text("llama")),
    pair("llama.embedding_length", U32, u32(8)),
    pair("llama.block_count", U32, u32(1)),
    pair("llama.attention.head_count", U32, u32(1)),
    pair("llama.feed_forward_length", U32, u32(8)),
    pair("llama.context_length", U32, u32(8)),
    pair("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-5)),
    pair("tokenizer.ggml.model", STRING, text("gpt2")),
    pair("tokenizer.ggml.tokens", ARRAY, strings("a", "b", "</s>", "<eot>", "<eom>")),
    pair("tokenizer.ggml.merges", ARRAY, strings()),
    pair("tokenizer.ggml.eos_token_id", U32, u32(2)),
    pair("tokenizer.ggml.eot_token_id", U32, u32(3)),
    pair("tokenizer.ggml.eom_token_id", U32, u32(4)),
]


def directory(folder: Path, **files: Any) -> Path:
    """A small safetensors checkpoint. files: name, with __ for the dot, to JSON; None: no file."""
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab={"a": 0, "b": 1, "</s>": 2, "<end>": 3}, merges=[])
    )
    backend.decoder = tokenizers.decoders.ByteLevel()
    contents = {
        "config__json": {"model_type": "llama", "eos_token_id": 2},
        "tokenizer__json": json.loads(backend.to_str()),
        **files,
    }
    folder.mkdir(exist_ok=True)
    save_file({"w": torch.arange(4.0)}, folder / "model.safetensors")
    for name, content in contents.items():
        if content is not None:
            (folder / name.replace("__", ".")).write_text(json.dumps(content))
    return folder


def test_a_directory(tmp_path: Path) -> None:
    opened = open_checkpoint(directory(tmp_path / "m", generation_config__json={"top_k": 5}))
    assert opened.format == "safetensors"
    assert opened.config == {"model_type": "llama", "eos_token_id": 2}
    assert opened.generation_config == {"top_k": 5}
    assert opened.chat_template is None
    assert opened.notes == ()
    assert opened.tokenizer().encode("ab") == [0, 1]
    assert opened.tokenizer() is opened.tokenizer()
    out = torch.empty(4)
    opened.tensors().read_into("w", out)
    assert out.tolist() == [0, 1, 2, 3]


def test_the_real_file(smollm2: Path) -> None:
    opened = open_checkpoint(smollm2)
    assert opened.format == "gguf"
    assert opened.config["architectures"] == ["LlamaForCausalLM"]
    assert opened.generation_config == {}
    assert opened.chat_template is not None
    assert "<|im_start|>assistant" in opened.chat_template
    assert opened.stop_ids == {2}
    assert opened.tensors().shape("token_embd.weight") == (49152, 576)
    assert opened.tokenizer().token_text(2) == "<|im_end|>"


def test_a_directory_with_one_gguf_file(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(file(GGUF_PAIRS))
    opened = open_checkpoint(tmp_path)
    assert opened.path == tmp_path / "model.gguf"
    assert opened.stop_ids == {2, 3, 4}
    (tmp_path / "other.gguf").write_bytes(file(GGUF_PAIRS))
    with pytest.raises(ValueError, match=r"several GGUF files; .*: model\.gguf, other\.gguf"):
        open_checkpoint(tmp_path)


def test_opening_needs_no_torch(tmp_path: Path, smollm2: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pieria.models.checkpoint import *;"
        "all = [open_checkpoint(Path(p)) for p in sys.argv[1:]];"
        "print([c.tokenizer().size for c in all], [sorted(c.stop_ids) for c in all],"
        "'torch' in sys.modules)"
    )
    paths = [str(directory(tmp_path / "m")), str(smollm2)]
    done = subprocess.run(
        [sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[4, 49152] [[2], [2]] False"


@pytest.mark.parametrize(
    ("config", "generation", "tokenizer", "expected"),
    [
        ({"eos_token_id": 2}, None, None, {2}),
        ({"eos_token_id": [1, 2]}, {"eos_token_id": 3}, None, {1, 2, 3}),
        ({"eos_token_id": None}, {"eos_token_id": [0, 3]}, None, {0, 3}),
        ({}, None, {"eos_token": "<end>"}, {3}),
        ({}, None, {"eos_token": {"content": "</s>"}}, {2}),
        ({"eos_token_id": "2"}, None, None, set()),
    ],
)
def test_stop_ids(
    tmp_path: Path, config: Any, generation: Any, tokenizer: Any, expected: set[int]
) -> None:
    path = directory(
        tmp_path / "m",
        config__json=config,
        generation_config__json=generation,
        tokenizer_config__json=tokenizer,
    )
    assert open_checkpoint(path).stop_ids == expected


def test_code_of_the_repository_is_ignored(tmp_path: Path) -> None:
    map = {"AutoModelForCausalLM": "modeling.Evil"}
    path = directory(tmp_path / "m", config__json={"auto_map": map})
    (path / "modeling.py").write_text("raise SystemExit('ran')")
    (note,) = open_checkpoint(path).notes
    assert note.startswith("auto_map in config.json is ignored")


@pytest.mark.parametrize(
    ("config", "jinja", "expected"),
    [
        ({"chat_template": "one"}, None, "one"),
        ({"chat_template": "one"}, "file ü", "file ü"),
        (None, "file", "file"),
        ({"chat_template": None}, None, None),
        (
            {
                "chat_template": [
                    {"name": "tool_use", "template": "t"},
                    {"name": "default", "template": "d"},
                ]
            },
            None,
            "d",
        ),
    ],
)
def test_where_the_chat_template_is(
    tmp_path: Path, config: Any, jinja: str | None, expected: str | None
) -> None:
    path = directory(tmp_path / "m", tokenizer_config__json=config)
    if jinja is not None:
        (path / "chat_template.jinja").write_text(jinja, "utf-8")
    assert open_checkpoint(path).chat_template == expected


def test_gguf_beside_a_config(tmp_path: Path) -> None:
    """As the hub's GGUF repositories have it; where there are safetensors, those are the model."""
    path = directory(tmp_path / "m")
    (path / "model.gguf").write_bytes(file(GGUF_PAIRS))
    assert open_checkpoint(path).format == "safetensors"
    (path / "model.safetensors").unlink()
    assert open_checkpoint(path).format == "gguf"


GGUF = file(GGUF_PAIRS)


@settings(
    deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(st.integers(0, len(GGUF) - 1), st.integers(0, 255)), max_size=3))
def test_damaged_metadata_is_a_value_error_at_worst(
    tmp_path: Path, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(GGUF)
    for at, byte in changes:
        data[at] = byte
    (tmp_path / "m.gguf").write_bytes(data)
    try:
        opened = open_checkpoint(tmp_path / "m.gguf")
        assert all(0 <= id < 2**32 for id in opened.stop_ids)
    except ValueError as error:
        assert "m.gguf" in str(error)


def test_chat_template_of_a_gguf_file(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(file([*GGUF_PAIRS, pair("tokenizer.chat_template", STRING, text("{{ x }}"))]))
    assert open_checkpoint(path).chat_template == "{{ x }}"


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    def refused(path: Path, message: str) -> None:
        with pytest.raises(ValueError, match=re.escape(message)) as caught:
            open_checkpoint(path)
        assert str(path) in str(caught.value)

    refused(tmp_path / "absent", "there is no such file or directory")
    refused(tmp_path, "there is neither a config.json nor a .gguf file")
    (tmp_path / "model.bin").write_bytes(b"x")
    refused(tmp_path / "model.bin", "not a checkpoint; give a .gguf file or a directory")
    (tmp_path / "part.gguf").write_bytes(
        file([*GGUF_PAIRS, pair("split.count", 2, struct.pack("<H", 3))])
    )
    refused(tmp_path / "part.gguf", "one of 3 parts, whose names must end in -00001-of-0000N.gguf")
    (tmp_path / "bad.gguf").write_bytes(
        file([*GGUF_PAIRS, pair("tokenizer.chat_template", U32, u32(1))])
    )
    refused(tmp_path / "bad.gguf", "tokenizer.chat_template is not a string")

    path = directory(tmp_path / "m")
    (path / "model.safetensors").unlink()
    refused(path, "there is neither model.safetensors nor model.safetensors.index.json")
    (path / "pytorch_model.bin").write_bytes(b"pickle")
    refused(path, "only there as pytorch_model.bin, a pickle, and loading one runs code")

    path = directory(tmp_path / "m")
    (path / "config.json").write_text('{"rms_norm_eps": NaN}')
    refused(path, "NaN is not a finite number")
    path = directory(tmp_path / "m", tokenizer_config__json={"chat_template": [{"name": "rag"}]})
    refused(path, "none of the 1 chat templates is the default")
    path = directory(tmp_path / "m", tokenizer_config__json={"chat_template": 3})
    refused(path, "chat_template is int, not a string")


def test_a_missing_tokenizer(tmp_path: Path) -> None:
    opened = open_checkpoint(directory(tmp_path / "m"))
    (tmp_path / "m" / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"neither a tokenizer\.json nor a tokenizer\.model"):
        opened.tokenizer()
