"""How text is cut, against llama.cpp's own splitting and, where it only comes near, by hand."""

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from pieria.models.pre_tokenizers import PRE_TOKENIZERS
from pieria.models.tokenizer import Tokenizer
from tests.models.gguf_keys import gguf_keys

TEXT = "It's 1234567 + x89!! I'LL\n\n  say, well... (no)/\n\tdéjà 你好かな한글 \r\n <a>    $5,000  "

PIECES = {
    "default falcon": (
        "It·'·s· ·123·456·7· ·+· x·89·!!· I·'·LL·\n\n · say·,· well·...· ·(·no"
        "·)/·\n·\t·déjà· 你好かな한글· \r\n ·<·a·>·    ·$·5·,·000·  "
    ),
    "minicpm5 llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano "
    "dbrx smaug-bpe chatglm-bpe glm4 glm5": (
        "It·'s· ·123·456·7· +· x·89·!!· I·'LL·\n\n· · say·,· well·...· (·no·)/"
        "\n·\tdéjà· 你好かな한글· \r\n· <·a·>·   · $·5·,·000·  "
    ),
    "deepseek-llm": (
        "It·'·s· ·1234567· +· x·89·!!· I·'·LL·\n·\n· · say·,· well·...· (·no·)"
        "/·\n·\td·é·j·à· ·你好かな한글· ·\r·\n· <·a·>·   · $·5·,·000·  "
    ),
    "deepseek-coder": (
        "It·'·s· ·1·2·3·4·5·6·7· +· x·8·9·!!· I·'·LL·\n·\n· · say·,· well·...·"
        " (·no·)/·\n·\tdéjà· ·你好かな한글· ·\r·\n· <·a·>    $·5·,·0·0·0·  "
    ),
    "deepseek-v3 hunyuan-dense hy_v4 joyai-llm": (
        "It·'s· ·123·456·7· +· x·89·!!· I·'LL·\n\n· · say·,· well·...· (·no·)/"
        "\n·\tdéjà· ·你好かな·한글· \r\n· <·a·>·   · $·5·,·000·  "
    ),
    "spark2_5": (
        "It·'s· ·1·2·3·4·5·6·7· +· x·8·9·!!· I·'LL·\n·\n· · say·,· well·...· ("
        "·no·)/·\n·\tdéjà· ·你好かな·한글· \r\n· <·a·>·   · $·5·,·0·0·0·  "
    ),
    "youtu": (
        "It's· ·1·2·3·4·5·6·7· +· x·8·9·!!· I'LL·\n\n· · say·,· well·...· (·no"
        "·)/\n·\tdéjà· ·你好かな·한글· \r\n· <·a·>·   · $·5·,·0·0·0·  "
    ),
    "mpt gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum "
    "modern-bert jina-v1-en jina-v2-code roberta-bpe olmo jais exaone4 trillion "
    "granite-docling": (
        "It·'s· 1234567· +· x·89·!!· I·'·LL·\n\n · say·,· well·...· (·no·)/·\n"
        "·\t·déjà· 你好かな한글· \r\n· <·a·>·   · $·5·,·000·  "
    ),
    "starcoder refact command-r smollm codeshell exaone minerva-7b mellum2": (
        "It·'s· ·1·2·3·4·5·6·7· +· x·8·9·!!· I·'·LL·\n\n · say·,· well·...· (·"
        "no·)/·\n·\t·déjà· 你好かな한글· \r\n· <·a·>·   · $·5·,·0·0·0·  "
    ),
    "jais-2": (
        "It·'s· ·123·456·7· +· x·89·!!· I·'LL·\n\n· · say·,· well·...· (·no·)/"
        "\n·\tdéjà· 你好かな한글· \r\n· <·a·>·  · · $·5·,·000·  "
    ),
    "gemma4 granite-embed-multi-311m sarvam-moe": (
        "It's 1234567 + x89!! I'LL·\n\n·  say, well... (no)/·\n·\tdéjà 你好かな한글 "
        "\r·\n· <a>    $5,000  "
    ),
    "whitespace": "It's·1234567·+·x89!!·I'LL·say,·well...·(no)/·déjà·你好かな한글·<a>·$5,000",
    "qwen2 deepseek-r1-qwen kormo f2llmv2 qwen35 stablelm2 tekken megrez bailingmoe "
    "bailingmoe2 llada-moe hunyuan ufakzeka grok-2 solar-open": (
        "It·'s· ·1·2·3·4·5·6·7· +· x·8·9·!!· I·'LL·\n\n· · say·,· well·...· (·"
        "no·)/\n·\tdéjà· 你好かな한글· \r\n· <·a·>·   · $·5·,·0·0·0·  "
    ),
    "poro-chat bloom gpt3-finnish": (
        "It's· 1234567· +· x89·!!· I'LL·\n\n · say·,· well·... (·no·)·/·\n\t·d"
        "éjà· 你好かな한글· \r\n· <a>·   · $5·,·000·  "
    ),
    "viking": (
        "It's· ·1·2·3·4·5·6·7· +· x·8·9·!!· I'LL·\n\n · say·,· well·... (·no·)"
        "·/·\n\t·déjà· 你好かな한글· \r\n· <a>·   · $·5·,·0·0·0·  "
    ),
    "exaone-moe": (
        "It·'s· ·1·2·3·4·5·6·7· +· x·8·9·!!· I·'LL·\n\n· · say·,· well·...· (·"
        "no·)/\n·\tdéjà 你好かな한글· \r\n· <·a·>·   · $·5·,·0·0·0·  "
    ),
    "chameleon": (
        "It·'·s· ·1·2·3·4·5·6·7· ·+· x·8·9·!·!· I·'·LL·\n·\n·  ·say·,· well·.·"
        ".·.· ·(·no·)·/·\n·\t·déjà· 你好かな한글· \r·\n· ·<·a·>·    ·$·5·,·0·0·0·  "
    ),
    "gpt-4o llama4 kanana2 talkie granite-embed-multi-97m minimax-m2": (
        "It's· ·123·456·7· +· x·89·!!· I'LL·\n\n· · say·,· well·...· (·no·)/\n"
        "·\tdéjà· 你好かな한글· \r\n· <·a·>·   · $·5·,·000·  "
    ),
    "tiny_aya cohere2moe": (
        "It's· ·1·234·567· +· x·89·!!· I'LL·\n\n· · say·,· well·...· (·no·)/\n"
        "·\tdéjà· 你好かな한글· \r\n· <·a·>·   · $·5·,·000·  "
    ),
    "superbpe": (
        "It's ·1·234·567· + x·89·!! I'LL\n\n  say, well... (no)/\n\tdéjà 你好かな한"
        "글 \r\n <a>    $·5·,·000·  "
    ),
    "seed-coder": (
        "It·'s· ·1·2·3·4·5·6·7· +· x·8·9·!!· I·'LL·\n\n· · say·,· well·...· (·"
        "no·)/·\n·\tdéjà· 你好かな한글· \r\n· <·a·>·   · $·5·,·0·0·0·  "
    ),
    "kimi-k2": (
        "It's· ·123·456·7· +· x·89·!!· I'LL·\n\n· · say·,· well·...· (·no·)/\n"
        "·\tdéjà· ·你好·かな한글· \r\n· <·a·>·   · $·5·,·000·  "
    ),
    "afmoe": (
        "It·'s· ·1·234·567· +· x·89·!!· I·'LL·\n\n· · say·,· well·...· (·no·)/"
        "\n·\tdéjà· ·你好かな한글· \r\n· <·a·>·   · $·5·,·000·  "
    ),
    "laguna": (
        "It·'s· ·1·2·3·4·5·6·7· +· x·8·9·!!· I·'LL·\n\n· · say·,· well·...· (·"
        "no·)/·\n·\tdéjà· 你好かな한글· \r·\n· <·a·>·   · $·5·,·0·0·0·  "
    ),
}
"""Names -> the pieces of `TEXT`, as `unicode_regex_split` of llama.cpp cuts it for these names."""


def pieces(name: str, text: str) -> list[str]:
    """What becomes tokens, found by its place in the text."""
    made = Tokenizer.from_gguf(gguf_keys(name), name)
    split = made._backend.pre_tokenizer.pre_tokenize_str(text)
    return [text[start:end] for _, (start, end) in split]


@pytest.mark.parametrize("names", PIECES)
def test_as_llama_cpp_cuts(names: str) -> None:
    for name in names.split():
        assert "·".join(pieces(name, TEXT)) == PIECES[names], name


def test_no_name_is_left_out() -> None:
    assert {name for names in PIECES for name in names.split()} == PRE_TOKENIZERS.keys()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("gpt-4o", "Hello·World· ABCdef· x·YZ's·É·,· ǅ· ـه"),
        ("tekken", "Hello·World· ABCdef· x·YZ·'s·É·,"),
        ("kimi-k2", "漢字·Hello·World·漢· ABCdef's"),
        ("qwen35", "e\u0301a·1·2"),
        ("qwen2", "e·\u0301a·1·2"),
    ],
)
def test_capitals_and_marks(name: str, text: str) -> None:
    """By the models' own patterns; llama.cpp takes capitals outside of ASCII for small letters."""
    assert "·".join(pieces(name, text.replace("·", ""))) == text


@pytest.mark.parametrize(
    ("text", "tiny_aya", "superbpe"),
    [
        ("1234567", "1·234·567", "1·234·567"),
        ("a12 345 1234x", "a·12· ·345· ·123·4·x", "a·12· ·345· ·1·234·x"),
    ],
)
def test_groups_of_digits_from_the_right(text: str, tiny_aya: str, superbpe: str) -> None:
    """Tiny Aya's pattern wants a word's end after the digits."""
    assert "·".join(pieces("tiny_aya", text)) == tiny_aya
    assert "·".join(pieces("superbpe", text)) == superbpe
    assert "·".join(pieces("afmoe", text)) == superbpe


@settings(deadline=None, max_examples=200)
@given(st.text(st.sampled_from("12½x٣ "), max_size=12))
def test_groups_as_the_published_pattern(text: str) -> None:
    r"""tokenizer.json has \d{1,3}(?=(?:\d{3})*\b), which reads a run of digits again and again."""
    published = pre_tokenizers.Split(tokenizers.Regex(r"\d{1,3}(?=(?:\d{3})*\b)"), "isolated")
    ours = pre_tokenizers.Split(
        tokenizers.Regex(PRE_TOKENIZERS["tiny_aya"].patterns[0]), "isolated"
    )
    assert ours.pre_tokenize_str(text) == published.pre_tokenize_str(text)


RUNS = ("1", "\u0301", "a", "A", "'", "-", " ", "\t", "\u3000", "\n", " \n", "x ", "\u4e00")
ONE_OF_EACH = {pre: name for name, pre in PRE_TOKENIZERS.items()}.values()


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_long_runs(name: str) -> None:
    """Nothing of them is lost, and no pattern goes back over a run for each of its characters."""
    for run in RUNS:
        text = run * 30_000 + "\U0001f389"
        found = "".join(pieces(name, text))
        assert found == ("".join(text.split()) if PRE_TOKENIZERS[name].drops else text)
