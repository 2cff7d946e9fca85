"""How a model is asked whether a document answers a query: as Qwen3-Reranker was trained.

Source: arXiv:2506.05176; the prompt is its model card's. Torch-free.
"""

from collections.abc import Sequence

from pieria.models.tokenizer import Tokenizer

INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"

BEFORE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and"
    ' the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
)
AFTER = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"

ANSWERS = ("yes", "no")
"""The document's score is the first one's share of the two tokens' probability."""


def questions(
    tokenizer: Tokenizer, query: str, documents: Sequence[str], instruction: str
) -> list[list[int]]:
    """The token ids that ask about each document."""
    before, after = _ids(tokenizer, BEFORE), _ids(tokenizer, AFTER)
    asked = f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: "
    return [[*before, *_ids(tokenizer, asked + text), *after] for text in documents]


def answers(tokenizer: Tokenizer) -> list[int]:
    """The tokens of the two answers. ValueError if one of them is no single token."""
    found = []
    for answer in ANSWERS:
        ids = _ids(tokenizer, answer)
        if len(ids) != 1 or tokenizer.decode(ids) != answer:
            raise ValueError(f"the vocabulary has no single token for {answer!r}")
        found += ids
    return found


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)
