"""`LLM` where texts become vectors and scores."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from pieria import LLM, ops
from pieria.models.rerank import INSTRUCTION, questions
from tests.models import embedders
from tests.models.embedders import pooled, theirs

OPTIONS: dict[str, Any] = {"device": "cpu", "threads": 1}


@pytest.fixture(autouse=True)
def _reference() -> Any:
    yield
    ops.use()


def test_an_encoder_embeds_and_does_nothing_else(tmp_path: Path) -> None:
    oracle = embedders.bert(tmp_path)
    pooled(tmp_path, "mean", normalize=True)
    (tmp_path / "config_sentence_transformers.json").write_text('{"prompts": {"q": "the "}}')
    texts = ["fox a", "the fox."]
    with LLM(str(tmp_path), **OPTIONS) as llm:
        found = torch.tensor(llm.embed(texts))
        assert llm.embed("fox a", prompt_name="q") == llm.embed(["the fox a"])
        with pytest.raises(ValueError, match="open for pooling; open it with runner='generate'"):
            llm.generate("the")
        with pytest.raises(ValueError, match="open for pooling"):
            llm.stats  # noqa: B018
        with pytest.raises(ValueError, match="no single token for 'yes'"):
            llm.score("a", ["b"])
    with torch.no_grad():
        states = [oracle(**theirs(tmp_path)(t, return_tensors="pt")) for t in texts]
    wanted = torch.stack([s.last_hidden_state[0].mean(0) for s in states])
    torch.testing.assert_close(found, torch.nn.functional.normalize(wanted), atol=1e-5, rtol=1e-5)


def test_an_encoder_cannot_be_made_to_generate(tmp_path: Path) -> None:
    embedders.bert(tmp_path)
    with pytest.raises(ValueError, match=r"bert models do not generate; use LLM\.embed"):
        LLM(str(tmp_path), runner="generate", **OPTIONS)
    with LLM(str(tmp_path), **OPTIONS) as llm, pytest.raises(ValueError, match="no modules.json"):
        llm.embed("a")


def test_a_reranker_scores(tmp_path: Path) -> None:
    oracle = embedders.qwen3(tmp_path, headless=False)
    documents = ["Paris.", "The fox", ""]
    with LLM(str(tmp_path), runner="pooling", **OPTIONS) as llm:
        found = llm.score("capital?", documents)
        assert llm.score("capital?", "Paris.") == pytest.approx(found[:1])
        assert llm.score("capital?", "Paris.", instruction="x") != pytest.approx(found[:1])
        asked = questions(llm.tokenizer, "capital?", documents, INSTRUCTION)
    yes, no = theirs(tmp_path).convert_tokens_to_ids(["yes", "no"])
    for score, ids in zip(found, asked, strict=True):
        with torch.no_grad():
            logits = oracle(torch.tensor([ids])).logits[0, -1].tolist()
        assert score == pytest.approx(1 / (1 + math.exp(logits[no] - logits[yes])), abs=1e-5)


def test_what_is_open_to_generate_does_not_pool(tmp_path: Path) -> None:
    embedders.qwen3(tmp_path, headless=False)
    with LLM(str(tmp_path), kv_cache_memory_bytes=1 << 20, **OPTIONS) as llm:
        with pytest.raises(ValueError, match="open to generate; open it with runner='pooling'"):
            llm.embed("a")
        with pytest.raises(ValueError, match="open to generate"):
            llm.score("a", "b")


def test_an_unknown_runner_is_named() -> None:
    with pytest.raises(ValueError, match="runner='embed'; there are: auto, generate, pooling"):
        LLM("x", runner="embed")  # type: ignore[arg-type]
