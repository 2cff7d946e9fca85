"""The table of what is supported, made from what passed: `make support` writes docs/SUPPORT.md.

A cell names the tests that show it; it says yes if all of those ran and passed.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pieria.models.pre_tokenizers import PRE_TOKENIZERS
from pieria.ops.formats import ggml

FAMILY = r"tests/models/test_families.py::test_logits_are_those_of_transformers\[{}[ \]]"
OWN = r"tests/models/test_{}.py::test_logits_are_those"
TOKENS = r"tests/engine/test_family_tokens.py::test_tokens_are_those_of_the_naive_loop\[.*{}[-\]]"
LOADED = r"tests/models/test_loader.py::test_gguf_and_safetensors_give_equal_logits\[{}-"
GGUF = r"tests/models/test_{}.py::test_gguf_and_safetensors_give_equal_logits"
OF_GGUF = r"tests/models/test_gguf_experts.py::test_gguf_and_safetensors_give_equal_logits\[{}-"
NO_GGUF = "no GGUF form"
VECTORS = r"tests/engine/test_embed.py::test_vectors_are_those_of_sentence_transformers\[{}-"
LAYOUT = r"tests/engine/test_layouts.py::test_tokens_are_those_of_one_process\[{}-{}\]"


@dataclass(frozen=True)
class Table:
    """A table; a cell is a pattern of test names, or other words where nothing is claimed."""

    title: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[str, ...]]


TABLES = (
    Table(
        "Families",
        (
            "logits equal transformers'",
            "engine tokens equal the naive loop",
            "logits from GGUF equal those from safetensors",
        ),
        {
            "Llama 2, 3, SmolLM2": (
                FAMILY.format("llama"),
                TOKENS.format("Llama"),
                LOADED.format("Llama"),
            ),
            "Qwen2, Qwen2.5": (
                FAMILY.format("qwen2"),
                TOKENS.format("Qwen2"),
                LOADED.format("Qwen2"),
            ),
            "Qwen2-MoE": (
                FAMILY.format("qwen2 moe"),
                TOKENS.format("Qwen2Moe"),
                OF_GGUF.format("qwen2 moe"),
            ),
            "Qwen3": (FAMILY.format("qwen3"), TOKENS.format("Qwen3"), OF_GGUF.format("qwen3")),
            "Qwen3-MoE": (
                FAMILY.format("qwen3 moe"),
                TOKENS.format("Qwen3Moe"),
                OF_GGUF.format("qwen3 moe"),
            ),
            "Qwen3-Next, Qwen3.5, Qwen3.5-MoE": (
                OWN.format("qwen3_next"),
                TOKENS.format("Qwen3(Next|_5|_5Moe)"),
                GGUF.format("gguf_delta"),
            ),
            "Mistral": (
                FAMILY.format("mistral"),
                TOKENS.format("Mistral"),
                OF_GGUF.format("mistral"),
            ),
            "Mixtral": (
                FAMILY.format("mixtral"),
                TOKENS.format("Mixtral"),
                OF_GGUF.format("mixtral"),
            ),
            "gpt-oss": (
                FAMILY.format("gpt-oss"),
                TOKENS.format("GptOss"),
                OF_GGUF.format("gpt-oss"),
            ),
            "gpt-oss in MXFP4, dequantized": (
                OWN.format("mxfp4_file"),
                TOKENS.format("GptOss"),
                GGUF.format("mxfp4_file"),
            ),
            "Gemma 2, 3 (text)": (
                OWN.format("gemma"),
                TOKENS.format("Gemma[23]"),
                GGUF.format("gemma"),
            ),
            "GLM-4": (OWN.format("glm4"), TOKENS.format("Glm4?"), GGUF.format("glm4")),
            "DeepSeek-V2, V3": (
                OWN.format("deepseek"),
                TOKENS.format("DeepseekV[23]"),
                GGUF.format("deepseek"),
            ),
            "Jiutian 8B": (
                r"tests/models/test_families.py::test_jiutian_is_qwen2_with_its_own_norm",
                TOKENS.format("jiutian-35b-dense"),
                NO_GGUF,
            ),
            "JIUTIAN-139MoE, against a script": (
                OWN.format("jiutian_moe"),
                TOKENS.format("Jiutian"),
                NO_GGUF,
            ),
            "Jiutian 35B candidates": (
                OWN.format("jiutian_35b"),
                TOKENS.format("jiutian-35b-[a-z]*"),
                NO_GGUF,
            ),
        },
    ),
    Table(
        "Encoders, embedders and rerankers",
        (
            "as transformers computes them",
            "embeddings equal sentence-transformers'",
            "from GGUF as from safetensors",
        ),
        {
            "BERT": (
                r"tests/models/test_bert.py::test_hidden_states_are_those_of_transformers",
                VECTORS.format("BERT"),
                r"tests/models/test_gguf_embedders.py::test_(hidden_states|vectors)_of_bert",
            ),
            "Qwen3-Embedding": (
                r"tests/engine/test_embed.py::test_a_decoders_vectors",
                VECTORS.format("Qwen3"),
                r"tests/models/test_gguf_embedders.py::test_vectors_of_qwen3_embedding",
            ),
            "Qwen3-Reranker": (
                r"tests/engine/test_embed.py::test_choices_are_shares",
                "–",
                r"tests/models/test_gguf_embedders.py::test_scores_of_qwen3_reranker",
            ),
        },
    ),
    Table(
        "Layouts over processes: greedy tokens in float64 equal one process",
        ("TP=2", "EP=2", "TP=2 x EP=2", "PP=2"),
        {
            family: tuple(
                LAYOUT.format(family, layout) if experts or "EP" not in layout else "–"
                for layout in ("TP=2", "EP=2", "TP=2 x EP=2", "PP=2")
            )
            for family, experts in (
                ("Llama", False),
                ("Gemma 3", False),
                ("DeepSeek-V3", True),
                ("Qwen3-MoE", True),
                ("Qwen3-Next", True),
            )
        },
    ),
    Table(
        "GGUF number formats",
        ("dequantized exactly as the gguf package does",),
        {
            name: (rf"tests/ops/formats/test_ggml.py::test_any_bytes\[{name}\]",)
            for name in ggml.PARTS
        },
    ),
    Table(
        "Tokenizers and chat templates",
        ("as who made them does it",),
        {
            "tokenizer.json: byte-level BPE, SentencePiece, WordPiece": (
                r"tests/models/test_tokenizer.py::",
            ),
            "tokenizer.model: SentencePiece BPE and unigram": (
                r"tests/models/test_sentencepiece_file.py::test_as_the_library",
            ),
            f"GGUF gpt2, gemma4: BPE cut in {len(PRE_TOKENIZERS)} ways": (
                r"tests/models/test_pre_tokenizers.py::test_(as_llama_cpp_cuts|no_name_is_left_out)",
            ),
            "GGUF llama: BPE by scores": (r"tests/models/test_vocabularies.py::test_scored_bpe",),
            "GGUF t5: unigram": (r"tests/models/test_vocabularies.py::test_unigram",),
            "GGUF bert: WordPiece": (r"tests/models/test_gguf_vocabulary.py::test_word_pieces",),
            "Chat templates, as transformers": (r"tests/models/test_chat_template.py::",),
        },
    ),
)  # fmt: skip


def render(outcomes: Mapping[str, str]) -> str:
    """The tables as Markdown. outcomes: of each test that ran, by name."""
    lines = [
        "# What is supported",
        "",
        "Made from the tests by `make support`: yes where every test of it passed on a CPU.",
    ]
    for table in TABLES:
        lines += ["", f"## {table.title}", "", "| | " + " | ".join(table.columns) + " |"]
        lines.append("|---" * (len(table.columns) + 1) + "|")
        for row, cells in table.rows.items():
            lines.append(f"| {row} | " + " | ".join(_word(c, outcomes) for c in cells) + " |")
    return "\n".join(lines) + "\n"


def write(path: Path, outcomes: Mapping[str, str]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(render(outcomes))


def _word(pattern: str, outcomes: Mapping[str, str]) -> str:
    if not pattern.startswith("tests/"):
        return pattern
    found = [outcome for name, outcome in outcomes.items() if re.match(pattern, name)]
    return "yes" if found and all(outcome == "passed" for outcome in found) else "no"
