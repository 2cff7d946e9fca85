"""How text is cut into pieces before byte pairs are merged, by the names that GGUF files give.

Source: llama-vocab.cpp of llama.cpp. Where it quotes the pattern of a model's own tokenizer.json
beside one that it adapted to its regex engine, the quoted one is here: ids must be those that the
model was trained on. Patterns are Oniguruma's, which the tokenizers library uses. Knows no files.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class PreTokenizer:
    """Text is cut by each of the patterns in turn; matches and the gaps between are both pieces.

    whole_words: a piece that is a token as it stands is not merged at all. add_bos: unless the file
    says otherwise. nfc: text is brought into that normal form first. marked: the vocabulary is
    spelled as SentencePiece does, with U+2581 for a space and <0x0A> for a byte, and not as GPT-2
    does. drops: what matches is no piece and gets no token.
    """

    patterns: tuple[str, ...]
    whole_words: bool = False
    add_bos: bool = False
    nfc: bool = False
    marked: bool = False
    drops: bool = False


DIGIT = r"\p{N}"
SUFFIX = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"

GPT2 = PreTokenizer((r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",))
DIGITS_GPT2 = PreTokenizer((DIGIT, *GPT2.patterns))
BLOOM = PreTokenizer((" ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+",))


def _words(numbers: str, suffix: str = SUFFIX + "|", spaces: str = SPACES) -> PreTokenizer:
    """Llama 3's words, with other numbers."""
    words = rf"[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|"
    return PreTokenizer((suffix + words + spaces,))


def _cased(
    numbers: str, suffix: str, upper: str = UPPER, lower: str = LOWER, after: str = r"[\r\n/]*"
) -> str:
    """GPT-4o's words: capitals only where a word begins. after: what may follow punctuation."""
    first = r"[^\r\n\p{L}\p{N}]?"
    words = rf"{first}{upper}*{lower}+{suffix}|{first}{upper}+{lower}*{suffix}"
    return rf"{words}|{numbers}| ?[^\s\p{{L}}\p{{N}}]+{after}|{SPACES}"


LLAMA3 = _words(r"\p{N}{1,3}")
QWEN2 = replace(_words(DIGIT), nfc=True)
GPT4O = PreTokenizer((_cased(r"\p{N}{1,3}", SUFFIX + "?"),))

CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
KANA = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
LATIN = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af"
    "\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-"
    "\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90"
    "-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d"
    "\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-"
    "\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4"
    "\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d"
    "\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4"
    "\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e"
    "\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f"
    "\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2"
    "\U000118a0-\U000118df\U0001e900-\U0001e943"
)
DEEPSEEK_WORDS = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
)
DEEPSEEK3 = PreTokenizer(
    (r"\p{N}{1,3}", KANA, DEEPSEEK_WORDS + r"| ?[\p{P}\p{S}]+[\r\n]*|" + SPACES)
)
KIMI_UPPER, KIMI_LOWER = (f"{case[:-1]}&&[^\\p{{Han}}]]" for case in (UPPER, LOWER))
ASIAN = (
    "[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf"
    "\u0e40-\u0e7f\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af"
    "\u1100-\u11ff]+"
)
THREES = r"(?<!{0}){0}{{1,3}}(?=(?:{0}{{3}})*+{1})|(?<={0})\G{0}{{3}}"
"""Groups of three digits {0}, counted from the end {1} of their run, each run read once."""

PRE_TOKENIZERS: Mapping[str, PreTokenizer] = {
    name: made
    for names, made in {
        "default": PreTokenizer(
            (r"[\p{P}\$\+<=>\^~\|]+", *GPT2.patterns, r"\p{N}+", "[0-9][0-9][0-9]")
        ),
        "gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert"
        " jina-v1-en jina-v2-code roberta-bpe jais exaone4 trillion granite-docling": GPT2,
        "mpt olmo": replace(GPT2, nfc=True),
        "smollm starcoder refact codeshell exaone minerva-7b mellum2": DIGITS_GPT2,
        "command-r": replace(DIGITS_GPT2, nfc=True),
        "falcon": PreTokenizer(
            (r"[\p{P}\$\+<=>\^~\|`]+", *GPT2.patterns, "[0-9][0-9][0-9]"),
        ),
        "dbrx smaug-bpe chatglm-bpe": LLAMA3,
        "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano": replace(
            LLAMA3, whole_words=True, add_bos=True
        ),
        "glm4 glm5": replace(LLAMA3, whole_words=True),
        "minicpm5": PreTokenizer((r"\p{N}{1,3}", *_words(r"\p{N}+").patterns), whole_words=True),
        "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez": QWEN2,
        "stablelm2 hunyuan solar-open grok-2": _words(DIGIT),
        "qwen35": PreTokenizer(
            (
                SUFFIX + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}|"
                r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + SPACES,
            ),
            nfc=True,
        ),
        "ufakzeka": _words(DIGIT, suffix=""),
        "laguna": PreTokenizer((r"\n+", *_words(DIGIT).patterns)),
        "bailingmoe bailingmoe2 llada-moe": PreTokenizer(
            (
                r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}|"
                r" ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
            )
        ),
        "seed-coder": PreTokenizer(
            (SUFFIX + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|" + SPACES,)
        ),
        "exaone-moe": PreTokenizer(
            (
                SUFFIX + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}|"
                r" ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
            )
        ),
        "jais-2": _words(
            r"\p{N}{1,3}",
            spaces=r"\s*[\r\n]+|"
            + "|".join(rf"\s{{{2**i}}}(?!\S)" for i in range(9, 1, -1))
            + r"|\s{1,2}(?!\S)|\s{1}",
        ),
        "gpt-4o llama4 kanana2 talkie minimax-m2": GPT4O,
        "granite-embed-multi-97m": replace(GPT4O, whole_words=True),
        "tiny_aya cohere2moe": PreTokenizer((THREES.format(r"\d", r"\b"), *GPT4O.patterns)),
        "tekken": PreTokenizer((_cased(DIGIT, ""),), whole_words=True, add_bos=True),
        "youtu": PreTokenizer(
            (
                "[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c"
                "\u3001-\u303f\ufe30-\ufe4f]+|[\u3105-\u312f]+|" + KANA,
                _cased(DIGIT, SUFFIX + "?"),
            ),
            whole_words=True,
        ),
        "kimi-k2": PreTokenizer(
            (
                r"\p{Han}+|"
                + _cased(r"\p{N}{1,3}", SUFFIX + "?", KIMI_UPPER, KIMI_LOWER, after=r"[\r\n]*"),
            )
        ),
        "deepseek-llm": PreTokenizer(
            (
                r"[\r\n]",
                rf"\s?[{LATIN}]+",
                "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
                r"(?<!\s)\s++$",  # \s+$, but each run of spaces is read once
                CJK,
                r"\p{N}+",
            )
        ),
        "deepseek-coder": PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK, DIGIT)),
        "deepseek-v3 hunyuan-dense joyai-llm hy_v4": DEEPSEEK3,
        "spark2_5": PreTokenizer(
            (
                *DEEPSEEK3.patterns[:2],
                DEEPSEEK_WORDS + r"| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+",
                DIGIT,
            )
        ),
        "afmoe": PreTokenizer(
            (
                THREES.format(r"\p{N}", r"(?!\p{N})"),
                ASIAN,
                DEEPSEEK3.patterns[2],
            )
        ),
        "superbpe": PreTokenizer((r"\p{N}+", THREES.format(r"\p{N}", r"\z"))),
        "bloom poro-chat gpt3-finnish": BLOOM,
        "viking": PreTokenizer((*BLOOM.patterns, DIGIT)),
        "chameleon": PreTokenizer(
            (
                "<sentinel:[0-9]+>",
                "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
                r"([\t\n]|    |  )",
                DIGIT,
                r"[\p{P}!-/:-@\[-`{-~]",
                *GPT2.patterns,
            ),
            add_bos=True,
        ),
        "gemma4 granite-embed-multi-311m": PreTokenizer((r"\n+",), add_bos=True, marked=True),
        "sarvam-moe": PreTokenizer((r"\n+",), marked=True),
        "whitespace": PreTokenizer((r"\s+",), marked=True, drops=True),
    }.items()
    for name in names.split()
}
"""tokenizer.ggml.pre -> what it stands for. nfc, which llama.cpp leaves out, is what transformers'
tokenizers of these families do (Qwen2, Qwen3.5, Cohere; GPT-NeoX, whose vocabulary MPT and OLMo
use)."""
