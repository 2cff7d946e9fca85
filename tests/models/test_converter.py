"""Every family's GGUF form as llama.cpp's own converter makes it; `make test-files` runs these.

The tests that write such files themselves say what it does; these say that it does so.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch

from pieria import LLM
from tests.models import (
    embedders,
    packed_experts,
    test_deepseek,
    test_families,
    test_qwen3_next,
    tiny,
)
from tests.models.llama_cpp import convert
from tests.models.sentencepiece_bytes import model
from tests.models.test_families import error, ours, read

pytestmark = pytest.mark.files

TOKENS = torch.randint(0, 203, (40,), generator=torch.Generator().manual_seed(1))
FUSED = {
    **dict.fromkeys(("llama biases", "qwen2 moe", "qwen3 moe", "gpt-oss", "gemma 3"), "--fuse-qkv"),
    **dict.fromkeys(("qwen3 next", "qwen3.5 moe"), "--fuse-gate-up-exps"),
}
PLAIN_MOE = {**test_families.EXPERTS, "norm_topk_prob": False}
GEMMA = {"head_dim": 24, "num_hidden_layers": 7, "query_pre_attn_scalar": 24, "sliding_window": 7}
PUBLISHED_MOE = {"scoring_func": "sigmoid", "topk_method": "noaux_tc"}
"""What DeepSeek-V3's config.json says, and transformers does not keep."""


def families(name: str) -> Any:
    kind, config = test_families.CASES[name]
    return tiny.model(kind, **config)


def deepseek(name: str) -> Any:
    kind, config = test_deepseek.CASES[name]
    even = test_deepseek.EVEN if "rope_parameters" in config else {}
    groups = {} if "n_group" in config else {"n_group": 1, "topk_group": 1}
    return tiny.model(kind, **{**config, **even, **groups})


def saved(made: Any, folder: Path, **config: Any) -> Path:
    """With keys of the config that are null, which tell the converter something."""
    made.save_pretrained(folder)
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    return folder


def third(made: Any, folder: Path) -> Path:
    return saved(made, folder, **PUBLISHED_MOE)


MADE: dict[str, Callable[[], Any]] = {
    **{
        name: lambda name=name: families(name)  # type: ignore[misc]
        for name in (
            *("llama", "llama tied", "llama biases", "llama yarn rope", "llama 3 rope"),
            *("llama linear rope", "qwen2", "qwen3", "qwen3 biases", "qwen3 moe"),
            *("mistral", "mixtral"),
        )
    },
    "qwen2 moe": lambda: tiny.model("Qwen2Moe", **PLAIN_MOE, shared_expert_intermediate_size=56),
    "gpt-oss": lambda: tiny.model("GptOss", **{**test_families.GPT_OSS, "swiglu_limit": 7.0}),
    "gemma 2": lambda: tiny.model("Gemma2", pad_token_id=0, **GEMMA),
    "gemma 3": lambda: tiny.model("Gemma3", pad_token_id=0, **GEMMA),
    "glm 4": lambda: tiny.model("Glm4", pad_token_id=0, head_dim=24),
    # It writes this epsilon whatever the config says.
    "glm": lambda: tiny.model("Glm", pad_token_id=0, head_dim=16, rms_norm_eps=1e-5),
    "deepseek 2": lambda: deepseek("v2 groups"),
    "deepseek 2 lite": lambda: deepseek("v2 lite"),
    "deepseek 3": lambda: deepseek("v3"),
    "qwen3 next": lambda: test_qwen3_next.oracle("next"),
    "qwen3.5": lambda: test_qwen3_next.oracle("3.5 dense"),
    "qwen3.5 moe": lambda: test_qwen3_next.oracle("3.5 moe"),
}
SAVED: dict[str, Callable[[Any, Path], Path]] = {
    "deepseek 3": third,
    "gpt-oss": packed_experts.save,
    "qwen3.5 moe": test_qwen3_next.save,
}
OPTIONS = dict.fromkeys(("qwen3 next", "qwen3.5", "qwen3.5 moe"), ("--no-mtp",))


def write_tokenizer(folder: Path, *, pieces: bool) -> None:
    """pieces: as a SentencePiece model."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    special = ["<unk>", "<s>", "</s>", "<|endoftext|>", "<|user|>"]
    words = [*special, *alphabet][: tiny.SHAPE["vocab_size"]]
    if pieces:
        kinds = [2, 3, 3, 4, 4] + [1] * len(words)
        found = [(word, -float(i), kinds[i]) for i, word in enumerate(words)]
        (folder / "tokenizer.model").write_bytes(model(found))
        return
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE({text: id for id, text in enumerate(words)}, [])
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens(special)
    backend.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("name", MADE)
def test_logits_are_those_from_safetensors(name: str, tmp_path: Path) -> None:
    made = MADE[name]()
    folder = SAVED.get(name, saved)(made, tmp_path / "plain")
    write_tokenizer(folder, pieces=name == "gemma 2")
    file = convert(folder, tmp_path / "model.gguf", *OPTIONS.get(name, ()))
    found = ours(read(file, torch.float32), TOKENS)
    assert error(found, ours(read(folder, torch.float32), TOKENS)) <= 1e-5
    assert error(found, tiny.logits(made, TOKENS)) <= 1e-4


@pytest.mark.parametrize("name", FUSED)
def test_what_it_keeps_as_one_if_asked_to(name: str, tmp_path: Path) -> None:
    folder = SAVED.get(name, saved)(MADE[name](), tmp_path / "plain")
    write_tokenizer(folder, pieces=False)
    file = convert(folder, tmp_path / "model.gguf", FUSED[name], *OPTIONS.get(name, ()))
    found = ours(read(file, torch.float32), TOKENS)
    assert error(found, ours(read(folder, torch.float32), TOKENS)) <= 1e-5


@pytest.mark.parametrize("encoder", [True, False], ids=["bert", "qwen3-embedding"])
def test_vectors_are_those_from_safetensors(encoder: bool, tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    if encoder:
        embedders.bert(folder)
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]"}
        ends = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
        (folder / "tokenizer_config.json").write_text(json.dumps({**config, **ends}))
    else:
        embedders.qwen3(folder, headless=True)
    embedders.pooled(folder, "mean" if encoder else "last", normalize=True)
    texts = ["the fox.", "a", "thee the zz! the", "f o x " * 9, "?"]
    vectors = []
    for path in (folder, convert(folder, tmp_path / "model.gguf")):
        with LLM(str(path), device="cpu", threads=1, dtype="float32") as llm:
            vectors.append(torch.tensor(llm.embed(texts)))
    torch.testing.assert_close(*vectors, atol=1e-6, rtol=1e-6)
