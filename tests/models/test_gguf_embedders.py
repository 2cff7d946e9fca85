"""Models that embed and score from GGUF files, against the same weights in safetensors: hidden
states, ids, vectors and scores.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import tokenizers
import torch
from safetensors.torch import load_file
from torch import Tensor

from pieria import LLM
from pieria.models.checkpoint import open_checkpoint
from pieria.models.context import Packed
from tests.models import embedders
from tests.models.test_families import error, read

TEXTS = ["the fox.", "a", "thee the zz! the", "f o x " * 9, "?"]
TOKENS = torch.tensor([2, *range(5, 35), 3])
OPTIONS: dict[str, Any] = {"device": "cpu", "threads": 1, "dtype": "float32"}


def write(
    path: Path,
    arch: str,
    config: Any,
    tensors: dict[str, Tensor],
    kind: Any,
    add: Callable[[gguf.GGUFWriter], None],
) -> Path:
    """As llama.cpp's converter does it; matrices in `kind`. add: what is the architecture's own."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[arch.upper()], config.num_hidden_layers)
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_tokenizer_pre("gpt-2")
    add(writer)
    for name, tensor in tensors.items():
        stored = kind if tensor.ndim > 1 else gguf.GGMLQuantizationType.F32
        data = gguf.quants.quantize(tensor.numpy(), stored)
        found = names.get_name(name, (".weight", ".bias"))
        assert found is not None, name
        writer.add_tensor(found, data, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def rounded(made: Any, kind: Any) -> None:
    """Every matrix as `kind` rounds it."""
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim > 1:
                stored = gguf.quants.quantize(parameter.numpy(), kind)
                parameter.copy_(torch.from_numpy(gguf.quants.dequantize(stored, kind)))


def as_bert(writer: gguf.GGUFWriter) -> None:
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_token_type_count(2)
    writer.add_tokenizer_model("bert")
    marked = [word[2:] if word.startswith("##") else f"\u2581{word}" for word in embedders.WORDS]
    writer.add_token_list([*embedders.WORDS[:4], *marked[4:]])
    writer.add_token_types([3] * 4 + [1] * (len(marked) - 4))
    for name, id in (("pad", 0), ("unk", 1), ("bos", 2), ("sep", 3), ("eos", 3)):
        getattr(writer, f"add_{name}_token_id")(id)


def bert(folder: Path, kind: Any) -> tuple[Path, Path, Any]:
    """(folder of safetensors, GGUF file, transformers model)."""
    plain, file = folder / "plain", folder / "model.gguf"
    oracle = embedders.bert(plain)
    rounded(oracle, kind)
    oracle.save_pretrained(plain)
    embedders.pooled(plain, "mean", normalize=True)
    tensors = {n: t for n, t in load_file(plain / "model.safetensors").items() if "pooler" not in n}
    return plain, write(file, "bert", oracle.config, tensors, kind, as_bert), oracle


def as_qwen3(writer: gguf.GGUFWriter) -> None:
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_key_length(16)
    writer.add_value_length(16)
    writer.add_tokenizer_model("gpt2")


def qwen3(folder: Path, kind: Any, *, headless: bool) -> tuple[Path, Path, Any]:
    """headless: Qwen3-Embedding; else Qwen3-Reranker, converted as the language model it is."""
    plain, file = folder / "plain", folder / "model.gguf"
    oracle = embedders.qwen3(plain, headless=headless)
    rounded(oracle, kind)
    (oracle.model if headless else oracle).save_pretrained(plain)
    if headless:
        embedders.pooled(plain, "last", normalize=True)

    def add(writer: gguf.GGUFWriter) -> None:
        as_qwen3(writer)
        if headless:
            writer.add_pooling_type(gguf.PoolingType.LAST)
        vocabulary = tokenizers.Tokenizer.from_file(str(plain / "tokenizer.json")).get_vocab()
        writer.add_token_list(sorted(vocabulary, key=vocabulary.__getitem__))
        writer.add_token_types([1] * 259 + [3] * 3)
        writer.add_token_merges(["y e", "ye s", "n o"])
        writer.add_eos_token_id(261)
        writer.add_eot_token_id(260)
        writer.add_add_eos_token(True)
        writer.add_add_bos_token(False)

    tensors = {n: t for n, t in oracle.state_dict().items() if n != "lm_head.weight"}
    return plain, write(file, "qwen3", oracle.config, tensors, kind, add), oracle


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0"])
def test_hidden_states_of_bert(kind: str, tmp_path: Path) -> None:
    plain, file, oracle = bert(tmp_path, gguf.GGMLQuantizationType[kind])
    context = Packed.of((len(TOKENS),))
    with torch.no_grad():
        found, wanted = (read(path, torch.float32)(TOKENS, context) for path in (file, plain))
        theirs = oracle(TOKENS[None]).last_hidden_state[0]
    assert error(found, wanted) <= 1e-6
    assert error(found, theirs) <= 1e-4


def vectors(path: Path) -> Tensor:
    with LLM(str(path), **OPTIONS) as llm:
        return torch.tensor(llm.embed(TEXTS))


def same_ids(plain: Path, file: Path) -> bool:
    ours, theirs = (open_checkpoint(path).tokenizer() for path in (file, plain))
    return all(ours.encode(text) == theirs.encode(text) for text in TEXTS)


def test_vectors_of_bert(tmp_path: Path) -> None:
    plain, file, _ = bert(tmp_path, gguf.GGMLQuantizationType.F32)
    assert same_ids(plain, file)
    torch.testing.assert_close(vectors(file), vectors(plain), atol=1e-6, rtol=1e-6)


def test_vectors_of_qwen3_embedding(tmp_path: Path) -> None:
    plain, file, _ = qwen3(tmp_path, gguf.GGMLQuantizationType.Q8_0, headless=True)
    assert same_ids(plain, file)
    torch.testing.assert_close(vectors(file), vectors(plain), atol=1e-6, rtol=1e-6)


def test_scores_of_qwen3_reranker(tmp_path: Path) -> None:
    plain, file, _ = qwen3(tmp_path, gguf.GGMLQuantizationType.Q8_0, headless=False)
    scores = []
    for path in (file, plain):
        with LLM(str(path), runner="pooling", **OPTIONS) as llm:
            scores.append(llm.score("capital?", ["Paris.", "The fox", ""]))
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    assert len(set(scores[0])) == 3


def test_a_head_of_two_answers_is_refused(tmp_path: Path) -> None:
    """What the converter makes of Qwen3-Reranker since it knows it; the others are gone."""
    path, _, oracle = qwen3(tmp_path, gguf.GGMLQuantizationType.F32, headless=False)

    def add(writer: gguf.GGUFWriter) -> None:
        as_qwen3(writer)
        writer.add_token_list(["a"])
        writer.add_pooling_type(gguf.PoolingType.RANK)

    write(path / "m.gguf", "qwen3", oracle.config, {}, gguf.GGMLQuantizationType.F32, add)
    with pytest.raises(ValueError, match="pooling_type=4: it is not supported"):
        open_checkpoint(path / "m.gguf")
