"""Vectors and choices as sentence-transformers and transformers have them, in any batch."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from torch import Tensor

from pieria import LLM, ops
from pieria.engine.embed import Embedder, open_embedder
from pieria.engine.runner_config import RunnerConfig
from pieria.models.config import ModelConfig
from tests.models import embedders
from tests.models.embedders import pooled, theirs

TEXTS = ["the fox.", "a", "thee the zz! the", "f o x " * 9, "?"]


@pytest.fixture(autouse=True)
def _reference() -> Any:
    yield
    ops.use()


def opened(folder: Path, batch_tokens: int = 16, **options: Any) -> Embedder:
    config = RunnerConfig(str(folder), device="cpu", threads=1, **options)
    return open_embedder(config, batch_tokens)[0]


def expected(oracle: Any, folder: Path, pooling: str, normalize: bool) -> Tensor:
    """Each text alone, pooled by hand."""
    vectors = []
    for text in TEXTS:
        ids = torch.tensor([theirs(folder)(text).input_ids])
        with torch.no_grad():
            hidden_TD = oracle(ids).last_hidden_state[0]
        ways = {"mean": hidden_TD.mean(0), "first": hidden_TD[0], "last": hidden_TD[-1]}
        vectors.append(ways[pooling])
    found = torch.stack(vectors)
    return F.normalize(found) if normalize else found


def ids_of(folder: Path) -> list[list[int]]:
    return [theirs(folder)(text).input_ids for text in TEXTS]


def sentence_model(kind: str, pooling: str, folder: Path) -> SentenceTransformer:
    """A random model with a pooling, in files that sentence-transformers wrote."""
    plain = folder / "plain"
    if kind == "BERT":
        embedders.bert(plain)
    else:
        embedders.qwen3(plain, headless=True)
    read = Transformer(str(plain))
    if kind == "Qwen3":
        # It fills up the shorter texts of a batch, for which a tokenizer needs a token.
        read.tokenizer.pad_token = "<|endoftext|>"
    parts = [read, Pooling(64, pooling), *([Normalize()] if pooling != "cls" else [])]
    oracle = SentenceTransformer(modules=parts, prompts={"query": "the "}, device="cpu")
    oracle.save(str(folder), create_model_card=False)
    return oracle


@pytest.mark.parametrize(
    ("kind", "pooling"), [("BERT", "mean"), ("BERT", "cls"), ("Qwen3", "lasttoken")]
)
def test_vectors_are_those_of_sentence_transformers(
    kind: str, pooling: str, tmp_path: Path
) -> None:
    oracle = sentence_model(kind, pooling, tmp_path)
    with LLM(str(tmp_path), max_num_batched_tokens=128, device="cpu", threads=1) as llm:
        for prompt in (None, "query"):
            found = torch.tensor(llm.embed(TEXTS, prompt_name=prompt))
            wanted = oracle.encode(TEXTS, prompt_name=prompt, convert_to_tensor=True)
            assert wanted.std(0).mean() > 0.02
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("batch_tokens", [1, 16, 1000])
@pytest.mark.parametrize(("pooling", "normalize"), [("mean", True), ("first", False)])
def test_an_encoders_vectors(
    pooling: str, normalize: bool, batch_tokens: int, tmp_path: Path
) -> None:
    oracle = embedders.bert(tmp_path)
    pooled(tmp_path, pooling, normalize=normalize)
    found = torch.tensor(opened(tmp_path, batch_tokens).embed(ids_of(tmp_path)))
    wanted = expected(oracle, tmp_path, pooling, normalize)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_a_decoders_vectors(tmp_path: Path) -> None:
    oracle = embedders.qwen3(tmp_path, headless=True)
    pooled(tmp_path, "last", normalize=True)
    embedder = opened(tmp_path)
    found = torch.tensor(embedder.embed(ids_of(tmp_path)))
    wanted = expected(oracle.model, tmp_path, "last", True)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="qwen3 models have no next token"):
        embedder.choose([[1]], [0, 1])


def test_choices_are_shares_of_the_options(tmp_path: Path) -> None:
    oracle = embedders.qwen3(tmp_path, headless=False)
    embedder = opened(tmp_path)
    texts, options = ids_of(tmp_path), [5, 250, 7]
    for found, text in zip(embedder.choose(texts, options), texts, strict=True):
        with torch.no_grad():
            logits_V = oracle(torch.tensor([text])).logits[0, -1]
        wanted = logits_V[options].softmax(-1).tolist()
        assert found == pytest.approx(wanted, abs=1e-5)
    with pytest.raises(ValueError, match="there is no modules.json"):
        embedder.embed(texts)


def test_batches_hold_whole_texts_within_the_budget(tmp_path: Path) -> None:
    embedders.bert(tmp_path)
    pooled(tmp_path, "mean", normalize=False)
    embedder = opened(tmp_path, batch_tokens=10)
    sizes = []
    forward = embedder.model.forward

    def counting(tokens_T: Tensor, context: Any) -> Tensor:
        sizes.append(context.lengths)
        return forward(tokens_T, context)

    embedder.model.forward = counting  # type: ignore[method-assign]
    assert len(embedder.embed([[4] * n for n in (3, 7, 1, 12, 2, 2, 6)])) == 7
    assert sizes == [(3, 7), (1,), (12,), (2, 2, 6)]
    assert embedder.embed([]) == []


@pytest.mark.parametrize(
    ("options", "length", "message"),
    [
        ({}, 65, "text 1 has 65 tokens; 1 to 64 are allowed"),
        ({"max_model_len": 20}, 21, "text 1 has 21 tokens; 1 to 20 are allowed"),
        ({}, 0, "text 1 has 0 tokens; 1 to 64 are allowed"),
    ],
)
def test_texts_of_a_wrong_length_are_named(
    options: dict[str, Any], length: int, message: str, tmp_path: Path
) -> None:
    embedders.bert(tmp_path)
    pooled(tmp_path, "mean", normalize=False)
    with pytest.raises(ValueError, match=message):
        opened(tmp_path, **options).embed([[4], [4] * length])


def test_a_tokenizers_id_that_the_model_does_not_know_is_named(tmp_path: Path) -> None:
    embedders.bert(tmp_path)
    pooled(tmp_path, "mean", normalize=False)
    known = len(embedders.WORDS)
    with pytest.raises(ValueError, match=f"text 1 has token id {known}; ids are .* below {known}"):
        opened(tmp_path).embed([[known - 1], [4, known]])


def test_files_may_allow_shorter_texts_only(tmp_path: Path) -> None:
    embedders.bert(tmp_path)
    pooled(tmp_path, "mean", normalize=False, max_seq_length=9)
    assert opened(tmp_path).most == 9


def test_several_ranks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape("tensor_parallel_size=2: models that embed")):
        opened(tmp_path, tensor_parallel_size=2)


def test_a_closed_embedder_holds_no_weights(tmp_path: Path) -> None:
    embedders.bert(tmp_path)
    embedder = opened(tmp_path)
    assert isinstance(embedder.model.config, ModelConfig)
    embedder.close()
    embedder.close()
    assert {p.device.type for p in embedder.model.parameters()} == {"meta"}
