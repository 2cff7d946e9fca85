"""All vocabularies and chat templates that llama.cpp publishes; `make test-files` runs these."""

import itertools
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor
from transformers.utils.chat_template_utils import render_jinja_template

from pieria.models.chat_template import ChatTemplate
from pieria.models.gguf import read_gguf
from pieria.models.pre_tokenizers import PRE_TOKENIZERS
from pieria.models.tokenizer import Tokenizer
from tests.models.llama_cpp import published
from tests.models.sentencepiece_bytes import model

pytestmark = pytest.mark.files

GOLDEN = (
    *("bert-bge", "command-r", "deepseek-coder", "deepseek-llm", "falcon", "gemma-4", "gpt-2"),
    *("llama-bpe", "llama-spm", "mpt", "phi-3", "qwen2", "qwen35", "refact", "starcoder"),
)
"""Vocabularies that come with texts and ids. The ids are those of the models' own tokenizers."""

OTHERS = ("aquila", "baichuan", "gpt-neox", "nomic-bert-moe")
"""Those that come alone."""

COMPOSED = ("qwen35",)
"""Its ids are not of Qwen3.5's tokenizer but of Qwen2's vocabulary without the normal form that
either model's tokenizer applies first (transformers, tokenization_qwen3_5.py)."""


BETWEEN = "\n__ggml_vocab_test__\n"


@pytest.fixture(scope="module")
def folder() -> Path:
    return published() / "models"


def load(folder: Path, name: str) -> tuple[Tokenizer, dict[str, Any]]:
    metadata = dict(read_gguf(folder / f"ggml-vocab-{name}.gguf").metadata)
    return Tokenizer.from_gguf(metadata, name), metadata


def goldens(folder: Path, name: str) -> Iterator[tuple[str, list[int]]]:
    path = folder / f"ggml-vocab-{name}.gguf.inp"
    texts = path.read_bytes().decode().removesuffix(BETWEEN).split(BETWEEN)
    lines = path.with_suffix(".out").read_text().removesuffix("\n").split("\n")
    for text, line in zip(texts, lines, strict=True):
        yield text, [int(id) for id in line.split()]


def test_the_vocabularies_are_all_there(folder: Path) -> None:
    found = {p.name.split(".")[0].removeprefix("ggml-vocab-") for p in folder.glob("*.gguf*")}
    assert found == {*GOLDEN, *OTHERS}


@pytest.mark.parametrize("name", GOLDEN)
def test_ids(folder: Path, name: str) -> None:
    tokenizer, _ = load(folder, name)
    count = 0
    for text, ids in goldens(folder, name):
        if name in COMPOSED and not unicodedata.is_normalized("NFC", text):
            continue
        count += 1
        assert tokenizer.encode(text, add_special_tokens=False) == ids, text
        if name != "bert-bge":
            assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert count >= 46


@pytest.mark.parametrize("name", OTHERS)
def test_text_there_and_back(folder: Path, name: str) -> None:
    tokenizer, _ = load(folder, name)
    for text, _ in goldens(folder, "llama-spm"):
        found = tokenizer.decode(tokenizer.encode(text, False), skip_special_tokens=False)
        assert found == (text if name != "nomic-bert-moe" else found)


@pytest.mark.parametrize("name", ["llama-spm", "phi-3", "baichuan", "nomic-bert-moe"])
def test_scores_as_sentencepiece(folder: Path, name: str) -> None:
    """The vocabulary as a SentencePiece model, read by the library that these models used."""
    tokenizer, keys = load(folder, name)
    unigram = keys["tokenizer.ggml.model"] == "t5"
    columns = (keys[f"tokenizer.ggml.{key}"] for key in ("tokens", "scores", "token_type"))
    pieces = [
        (token, score, {"<unk>": 2, "</s>": 3}.get(token, 5 if kind == 2 else kind))
        for token, score, kind in zip(*columns, strict=True)
    ]
    charsmap = keys.get("tokenizer.ggml.precompiled_charsmap")
    proto = model(
        pieces,
        kind=1 if unigram else 2,
        collapse=unigram,
        charsmap=b"" if charsmap is None else charsmap.tobytes(),
    )
    reference = SentencePieceProcessor(model_proto=proto)
    for text, _ in goldens(folder, "llama-spm"):
        assert tokenizer.encode(text, False) == reference.encode(text), text


def test_every_published_name_is_known(folder: Path) -> None:
    source = (folder.parent / "src" / "llama-vocab.cpp").read_text()
    names = set(re.findall(r'tokenizer_pre == "([^"]+)"', source))
    assert len(names) > 80
    assert names <= PRE_TOKENIZERS.keys()


# Chat templates


def function(name: str) -> dict[str, Any]:
    properties = {
        "city": {"type": "string", "description": "c"},
        "days": {"type": "integer", "enum": [1, 2], "default": 1, "description": "d"},
        "more": {
            "type": "array",
            "description": "m",
            "items": {"type": "object", "properties": {"x": {"type": ["number", "null"]}}},
        },
    }
    parameters = {"type": "object", "properties": properties, "required": ["city"]}
    description = 'Wéather <b> of "it"\nnow'
    about = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": {**about, "return": {"type": "string"}, "strict": True}}


def said(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def call(arguments: Any, id: str = "abcdefgh1") -> dict[str, Any]:
    return {
        "id": id,
        "type": "function",
        "function": {"name": "get_weather", "arguments": arguments},
    }


def result(content: str, id: str = "abcdefgh1") -> dict[str, Any]:
    return said("tool", content, tool_call_id=id, name="get_weather")


def texts(*found: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in found]


TOOLS = [function("get_weather"), function("find")]
THOUGHT = dict.fromkeys(("reasoning_content", "thinking", "reasoning"), "hm, <x>")
ARGUMENTS = {"city": "X <é>", "days": 2, "more": [{"x": None}, {"x": 1.5}], "b": True}
HI, OK = said("user", "Hello <there> 你好 \U0001f600\n "), said("user", "ok")
CONVERSATIONS = {
    "a question": [HI],
    "turns": [said("system", "Be brief."), HI, said("assistant", "b"), said("user", " c \n")],
    "no system": [HI, said("assistant", "b\n"), OK, said("assistant", "d"), OK],
    "a call": [HI, said("assistant", None, tool_calls=[call(ARGUMENTS)]), result('{"t": 3}'), OK],
    "a call as text": [
        said("system", "s"),
        HI,
        said("assistant", "I look", tool_calls=[call('{"city": "X"}')]),
        result("3"),
    ],
    "two calls": [
        HI,
        said("assistant", "", tool_calls=[call({}), call({"city": "Y"}, "abcdefgh2")], **THOUGHT),
        result("3"),
        result("4", "abcdefgh2"),
        said("assistant", "so"),
        OK,
    ],
    "thoughts": [
        HI,
        said("assistant", "<think>\nhm\n</think>\n\nyes"),
        OK,
        said("assistant", "yes", **THOUGHT),
        OK,
    ],
    "a last thought": [HI, said("assistant", "yes", **THOUGHT)],
    "no alternation": [said("assistant", "x"), said("assistant", "y")],
    "two systems": [said("system", "a"), said("system", "b"), HI],
    "a developer": [said("developer", "d"), HI],
    "a late system": [HI, said("system", "b"), OK],
    "parts": [
        said("system", "s"),
        said("user", texts("one", "two")),
        said("assistant", texts("3")),
    ],
    "an image": [said("user", [{"type": "image"}, *texts("what?")])],
    "nothing": [said("user", "")],
    "an unknown role": [said("critic", "x")],
    "a beginning": [HI, said("assistant", "partial answer ")],
}
PROMPT = {"add_generation_prompt": True}
OPTIONS: list[dict[str, Any]] = [
    PROMPT,
    {"add_generation_prompt": False},
    {**PROMPT, "tools": TOOLS},
    {"add_generation_prompt": False, "tools": TOOLS[:1]},
    {"add_generation_prompt": False, "continue_final_message": True},
    {**PROMPT, "enable_thinking": False, "thinking": False, "reasoning_effort": "low"},
    {**PROMPT, "enable_thinking": True, "tools": TOOLS, "builtin_tools": ["python"]},
    {**PROMPT, "documents": [{"title": "T", "text": "body", "doc_id": 1}]},
    {**PROMPT, "functions": "[]", "datetime": "now"},
]


def test_templates_as_transformers_renders_them(folder: Path) -> None:
    """The same text, or an error of both; that of the template itself in the same words."""
    paths = sorted((folder / "templates").glob("*.jinja"))
    assert len(paths) >= 70
    for path in paths:
        source = path.read_bytes().decode()
        template = ChatTemplate(source, "<s>", "</s>")
        rendered = 0
        for (what, messages), options in itertools.product(CONVERSATIONS.items(), OPTIONS):
            given = {"bos_token": "<s>", "eos_token": "</s>", **options}
            try:
                [expected], _ = render_jinja_template([messages], chat_template=source, **given)
            except Exception as error:
                with pytest.raises(ValueError) as caught:
                    template.render(messages, **options)
                if type(error).__name__ == "TemplateError":
                    assert str(caught.value) == str(error)
                continue
            assert template.render(messages, **options) == expected, f"{path.name}: {what}"
            rendered += 1
        assert rendered >= 5, path.name
