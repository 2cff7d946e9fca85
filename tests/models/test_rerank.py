"""What a reranker is asked, as its model card builds it."""

from pathlib import Path

import pytest

from pieria.models.checkpoint import open_checkpoint
from pieria.models.rerank import INSTRUCTION, answers, questions
from tests.models import embedders
from tests.models.embedders import theirs

PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and"
    ' the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


def test_questions(tmp_path: Path) -> None:
    embedders.qwen3(tmp_path, headless=False)
    tokenizer, oracle = open_checkpoint(tmp_path).tokenizer(), theirs(tmp_path)

    def ids(text: str) -> list[int]:
        found: list[int] = oracle(text, add_special_tokens=False).input_ids
        return found

    documents = ["Paris.", ""]
    found = questions(tokenizer, "capital?", documents, INSTRUCTION)
    assert found == [
        ids(PREFIX)
        + ids(
            "<Instruct>: Given a web search query, retrieve relevant passages that answer the"
            f" query\n<Query>: capital?\n<Document>: {document}"
        )
        + ids(SUFFIX)
        for document in documents
    ]
    assert answers(tokenizer) == oracle.convert_tokens_to_ids(["yes", "no"])


def test_a_vocabulary_without_the_answers_is_refused(tmp_path: Path) -> None:
    embedders.bert(tmp_path)
    with pytest.raises(ValueError, match="no single token for 'yes'"):
        answers(open_checkpoint(tmp_path).tokenizer())
