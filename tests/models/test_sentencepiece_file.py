"""tokenizer.model files, against the sentencepiece library that makes them; then damaged ones."""

import io
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor

from pieria.models.sentencepiece_file import read_sentencepiece
from pieria.models.tokenizer import Tokenizer
from tests.models.sentencepiece_bytes import field, model, piece, varint

LINES = [
    line
    for path in sorted(Path(__file__).parent.glob("*.py"))
    for line in path.read_text().split("\n")
    if not re.search("</?s>|<unk>|<turn>", line)
]
"""These tests' own text, to train on."""

TEXTS = [
    "",
    " ",
    "Hello, world! Hello,  world!",
    " def test_x(tmp_path: Path) -> None:\n        assert x == [1, 22, 333]\r\n",
    "trailing   ",
    "\t tabs \t\t and\u3000others",
    "你好，世界 こんにちは 안녕하세요",
    "🎉👩‍👩‍👧‍👦 e\u0301 é ﬁ Ⅷ ½ ＡＢＣ",
    "return return_returns" * 3,
]
KINDS = {
    "llama": {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity"},
    "gemma": {
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "user_defined_symbols": ["<turn>", "\n\n", "▁▁▁▁"],
    },
    "t5": {"model_type": "unigram"},
    "chars": {"model_type": "char"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model of each kind."""
    folder = tmp_path_factory.mktemp("sentencepiece")
    for kind, options in KINDS.items():
        out = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(LINES),
            model_writer=out,
            vocab_size=800,
            hard_vocab_limit=False,
            remove_extra_whitespaces=kind == "t5",
            minloglevel=2,
            **options,
        )
        (folder / f"{kind}.model").write_bytes(out.getvalue())
    return folder


@pytest.mark.parametrize("kind", ["llama", "gemma", "t5"])
def test_as_the_library(folder: Path, kind: str) -> None:
    path = folder / f"{kind}.model"
    reference = SentencePieceProcessor(model_file=str(path))
    tokenizer = Tokenizer.from_sentencepiece(path, {"add_bos_token": False}, {})
    assert (tokenizer.bos, tokenizer.eos) == (reference.bos_id(), reference.eos_id()) == (1, 2)
    assert tokenizer.size == reference.vocab_size()
    for text in [*TEXTS, *LINES[:500]]:
        ids, wanted = tokenizer.encode(text), reference.encode(text)
        if kind != "t5":
            assert ids == wanted, text
            assert tokenizer.decode(ids, False) == text
        elif ids != wanted:  # of cuts that are worth the same, either may be taken
            assert reference.decode(ids) == reference.decode(wanted), text
            worth = [sum(map(reference.get_score, cut)) for cut in (ids, wanted)]
            assert worth[0] == pytest.approx(worth[1], abs=1e-4), text


@settings(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))
@given(st.text(st.sampled_from("\n  aeitr_.()<turn>é你")))
def test_any_text(folder: Path, text: str) -> None:
    reference = SentencePieceProcessor(model_file=str(folder / "llama.model"))
    tokenizer = Tokenizer.from_sentencepiece(folder / "llama.model", {}, {})
    assert tokenizer.encode(text) == [1, *reference.encode(text)]


def test_special_tokens_in_text(folder: Path) -> None:
    tokenizer = Tokenizer.from_sentencepiece(folder / "llama.model", {}, {})
    a, b = tokenizer.encode("a", False), tokenizer.encode("b", False)
    assert tokenizer.encode("a</s>b") == [1, *a, 2, *b]
    assert tokenizer.special_ids == {0, 1, 2}
    gemma = Tokenizer.from_sentencepiece(folder / "gemma.model", {}, {})
    turn = gemma.encode("<turn>", False)
    assert len(turn) == 1
    assert gemma.token_bytes(turn[0]) == b"<turn>"
    assert not gemma.special_ids & set(turn)


def test_tokens_that_the_config_adds(folder: Path) -> None:
    path = folder / "llama.model"
    size = Tokenizer.from_sentencepiece(path, {}, {}).size
    listed = {
        "2": {"content": "</s>", "special": True, "rstrip": True},
        str(size + 1): {"content": "<|b|>", "special": True},
        str(size): {"content": "<|a|>"},
    }
    config = {"added_tokens_decoder": listed, "eos_token": "<|b|>", "add_eos_token": True}
    tokenizer = Tokenizer.from_sentencepiece(path, config, {"not": 7})
    assert tokenizer.encode("<|a|></s>  <|b|>", False) == [size, 2, size + 1]
    assert (tokenizer.eos, tokenizer.size) == (size + 1, size + 2)
    assert tokenizer.encode("<|a|>") == [1, size, size + 1]
    assert tokenizer.decode([size, size + 1]) == "<|a|>"
    older = Tokenizer.from_sentencepiece(path, {}, {"<|a|>": size})
    assert older.encode("<|a|>", False) == [size]


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ({"9999": {"content": "x|"}}, "the added token 'x|' cannot have the id 9999"),
        ({"-1": {"content": "x|"}}, "the added token '-1': {'content': 'x|'} must have an id and"),
        ({"800": "x|"}, "the added token '800': 'x|' must have an id and a content"),
        ({"800": {"content": 5}}, "must have an id and a content"),
    ],
)
def test_tokens_that_cannot_be_added(folder: Path, listed: Any, message: str) -> None:
    with pytest.raises(ValueError, match=r"llama\.model: .*" + re.escape(message)):
        Tokenizer.from_sentencepiece(folder / "llama.model", {"added_tokens_decoder": listed}, {})


PIECES = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), ("a", -1.0, 1), ("▁", -2.0, 1)]
SOUND = model(PIECES)


def read(data: bytes, folder: Path) -> Tokenizer:
    (folder / "tokenizer.model").write_bytes(data)
    return Tokenizer.from_sentencepiece(folder / "tokenizer.model", {}, {})


def test_a_model_without_ends(tmp_path: Path) -> None:
    tokenizer = read(model([*PIECES[:1], *PIECES[3:]]), tmp_path)
    assert (tokenizer.bos, tokenizer.eos) == (None, None)
    assert tokenizer.encode("a") == [2, 1]
    none = field(41, 2**64 - 1) + field(42, 2**64 - 1)
    assert read(model(PIECES, trainer=none), tmp_path).bos is None


def test_unknown_fields_are_passed_over(tmp_path: Path) -> None:
    more = field(9, 1) + field(10, b"abc") + varint(11 << 3 | 1) + bytes(8) + field(12, 0.5)
    assert read(SOUND + more, tmp_path).encode("a") == read(SOUND, tmp_path).encode("a")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "there are no pieces"),
        (b"IQ== 0\nIg== 1\n", "there are no pieces"),
        (SOUND[:-1], "bytes are needed"),
        (varint(1 << 3 | 2) + varint(1 << 60), "1152921504606846976 bytes are needed, 0 left"),
        (b"\xff" * 10, "byte 0: a number does not end"),
        (b"\x80", "byte 0: a number does not end"),
        (varint(1 << 3 | 3), "byte 1: wire type 3 is unknown"),
        (varint(1 << 3 | 1) + bytes(7), "8 bytes are needed, 7 left"),
        (field(1, 5), "field 1 at byte 1 must be a message"),
        (SOUND + field(3, 1.0), "must be a message"),
        (piece("a") + piece("a"), "the token 'a' occurs twice"),
        (piece(""), "field 1 of the message at byte 2 must be a text that is not empty"),
        (field(1, field(1, b"\xff")), "field 1 of the message at byte 2 must be UTF-8"),
        (field(1, field(1, 7)), "field 1 of the message at byte 2 must be bytes"),
        (field(1, field(1, b"a") + field(2, b"1")), "field 2 of the message at byte 2 must be a f"),
        (piece("a", float("nan")), "field 2 of the message at byte 2 must be finite"),
        (piece("a", kind=7), "the piece at byte 2 is of type 7; there are 1 to 6"),
        (field(1, field(1, b"a") + field(3, b"1")), "must be a number"),
        (model(PIECES, kind=4), "model_type=4; there are: 1 (unigram), 2 (BPE)"),
        (model(PIECES, trainer=field(24, 1)), "spaces that end words"),
        (SOUND + field(3, field(5, 0)), "spaces that end words, or that have no marks"),
        (model(PIECES, charsmap=b"damaged"), "the table of characters: "),
        (model([("a" * 600, 0.0, 1)]), "has more than 512 characters"),
    ],
)  # fmt: skip
def test_a_file_that_lies_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=re.escape(message)) as caught:
            read(data, tmp_path)
        assert str(tmp_path / "tokenizer.model") in str(caught.value)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_characters_as_a_model(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"model_type=4; there are: 1 \(unigram\), 2 \(BPE\)"):
        read_sentencepiece(folder / "chars.model")


@settings(deadline=None, max_examples=400, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.integers(0, len(SOUND) - 1), st.integers(0, 255)), max_size=6))
def test_damage_never_crashes(tmp_path: Path, changes: list[tuple[int, int]]) -> None:
    data = bytearray(SOUND)
    for at, byte in changes:
        data[at] = byte
    try:
        read(bytes(data), tmp_path).encode("a b")
    except ValueError as error:
        assert "tokenizer.model" in str(error)
