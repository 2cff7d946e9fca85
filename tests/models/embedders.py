"""Small random models that embed or score, with tokenizers, as their users would save them."""

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tests.models import tiny
from tests.models.test_bert import made

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz.?", "the", "##e", "fox")

POOLING = {"mean": "mean", "first": "cls", "last": "lasttoken"}


def bert(folder: Path) -> Any:
    """BERT with a WordPiece tokenizer; returns the transformers model."""
    oracle = made(vocab_size=len(WORDS), max_position_embeddings=64)
    tiny.save(oracle, folder)
    model = models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens(list(WORDS[:4]))
    backend.save(str(folder / "tokenizer.json"))
    return oracle


def qwen3(folder: Path, *, headless: bool) -> Any:
    """Qwen3 with a byte-level tokenizer that ends a text with a token; the transformers model.

    headless: as Qwen3-Embedding is saved; else as Qwen3-Reranker is.
    """
    oracle = tiny.model("Qwen3", vocab_size=262, head_dim=16, tie_word_embeddings=True)
    tiny.save(oracle.model if headless else oracle, folder)
    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ye", "yes", "no"]
    merges = [("y", "e"), ("ye", "s"), ("n", "o")]
    backend = tokenizers.Tokenizer(models.BPE({t: i for i, t in enumerate(words)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|im_start|>", "<|im_end|>", "<|endoftext|>"])
    backend.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", 261)]
    )
    backend.save(str(folder / "tokenizer.json"))
    config = {"eos_token": "<|im_end|>", "bos_token": None, "add_bos_token": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return oracle


def theirs(folder: Path) -> PreTrainedTokenizerFast:
    """transformers' tokenizer of the same file."""
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))


def pooled(
    folder: Path, pooling: str, *, normalize: bool, older: bool = False, **sbert: Any
) -> None:
    """The files of sentence-transformers: of version 6 or, `older`, of 2."""
    base = "sentence_transformers."
    kinds = (
        [f"{base}models.Transformer", f"{base}models.Pooling", f"{base}models.Normalize"]
        if older
        else [
            f"{base}base.modules.transformer.Transformer",
            f"{base}sentence_transformer.modules.pooling.Pooling",
            f"{base}base.modules.normalize.Normalize",
        ]
    )
    folders = ["", "1_Pooling", "2_Normalize"]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": kind}
        for i, (path, kind) in enumerate(zip(folders, kinds, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(modules if normalize else modules[:2]))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    mode: dict[str, Any] = {"pooling_mode": POOLING[pooling], "include_prompt": True}
    if older:
        flags = {"mean": "mean_tokens", "first": "cls_token", "last": "lasttoken"}
        mode = {f"pooling_mode_{flag}": how == pooling for how, flag in flags.items()}
        mode["pooling_mode_max_tokens"] = False
    text = json.dumps({"word_embedding_dimension": 64, **mode})
    (folder / "1_Pooling" / "config.json").write_text(text)
    (folder / "sentence_bert_config.json").write_text(json.dumps(sbert))
