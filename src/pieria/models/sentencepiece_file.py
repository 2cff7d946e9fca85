"""SentencePiece models, the tokenizer.model beside some weights: a protobuf message. Torch-free.

Source: sentencepiece_model.proto of google/sentencepiece. A dozen of its fields are wanted, which
takes less than a protobuf library and a compiled schema would. The file is not trusted: lengths are
checked against the bytes that are left, and every fault is a ValueError that names the byte.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import tokenizers

from pieria.models import vocabularies
from pieria.models.json_file import read_bounded
from pieria.models.vocabularies import (
    BYTE,
    CONTROL,
    MARK,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
    Spaces,
    Vocabulary,
)

PIECES, TRAINER, NORMALIZER = 1, 2, 3
"""Fields of the model."""

PIECE, SCORE, TYPE = 1, 2, 3
"""Fields of a piece."""

MODEL_TYPE, SUFFIX_SPACES, BOS, EOS = 3, 24, 41, 42
"""Fields of trainer_spec."""

CHARSMAP, DUMMY_PREFIX, COLLAPSE, MARKED_SPACES = 2, 3, 4, 5
"""Fields of normalizer_spec."""

UNIGRAM, BPE = 1, 2
"""model_type; there are also words and characters."""


@dataclass(frozen=True)
class SentencePieceModel:
    """bos, eos: None if the model has none."""

    vocabulary: Vocabulary
    scores: tuple[float, ...]
    unigram: bool
    spaces: Spaces
    bos: int | None
    eos: int | None

    def backend(self) -> tokenizers.Tokenizer:
        """ValueError if the library does not take it."""
        if not self.unigram:
            return vocabularies.scored_bpe(self.vocabulary, self.scores, self.spaces)
        unknown = self.vocabulary.first(UNKNOWN)
        if unknown is None:
            raise ValueError("there is no piece of type 2 for characters without one")
        return vocabularies.unigram(self.vocabulary, self.scores, self.spaces, unknown)


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """ValueError if it is no sound model, or of a kind that is not supported."""
    try:
        return _model(memoryview(read_bounded(path)))
    except ValueError as error:
        raise ValueError(f"{path}: not a SentencePiece model that is supported: {error}") from None


def _model(data: memoryview) -> SentencePieceModel:
    tokens: list[str] = []
    types = bytearray()
    scores: list[float] = []
    parts = {TRAINER: _Message(data[:0], 0), NORMALIZER: _Message(data[:0], 0)}
    for number, at, value in _fields(data, 0):
        if number not in (PIECES, TRAINER, NORMALIZER):
            continue
        if not isinstance(value, memoryview):
            raise ValueError(f"field {number} at byte {at} must be a message")
        message = _Message(value, at)
        if number != PIECES:
            parts[number] = message
            continue
        kind = message.number(TYPE, NORMAL)
        if not NORMAL <= kind <= BYTE:
            raise ValueError(f"the piece at byte {at} is of type {kind}; there are 1 to {BYTE}")
        text = message.text(PIECE)
        tokens.append(text.replace(MARK, " ") if kind == USER_DEFINED else text)
        types.append(kind)
        scores.append(message.float(SCORE))
    if not tokens:
        raise ValueError("there are no pieces")
    trainer, normalizer = parts[TRAINER], parts[NORMALIZER]
    kind = trainer.number(MODEL_TYPE, UNIGRAM)
    if kind not in (UNIGRAM, BPE):
        raise ValueError(f"model_type={kind}; there are: 1 (unigram), 2 (BPE)")
    if trainer.number(SUFFIX_SPACES, 0) or not normalizer.number(MARKED_SPACES, 1):
        raise ValueError("spaces that end words, or that have no marks, are not supported")

    def control(id: int) -> int | None:
        return id if id < len(types) and types[id] == CONTROL else None

    return SentencePieceModel(
        Vocabulary(tokens, types),
        tuple(scores),
        kind == UNIGRAM,
        Spaces(
            before_text=bool(normalizer.number(DUMMY_PREFIX, 1)),
            collapse=bool(normalizer.number(COLLAPSE, 1)),
            charsmap=normalizer.bytes(CHARSMAP),
        ),
        bos=control(trainer.number(BOS, 1)),
        eos=control(trainer.number(EOS, 2)),
    )


class _Message:
    """The last value of each field, checked when it is asked for."""

    def __init__(self, data: memoryview, base: int) -> None:
        """base: where in the file the message begins, in bytes."""
        self.base = base
        self.values = {number: value for number, _, value in _fields(data, base)}

    def number(self, number: int, default: int) -> int:
        value = self.values.get(number, default)
        if not isinstance(value, int):
            raise self._fault(number, "a number")
        return value

    def float(self, number: int) -> float:
        value = self.values.get(number, 0)
        if not isinstance(value, int) or value >= 1 << 32:
            raise self._fault(number, "a float")
        score: float = struct.unpack("<f", struct.pack("<I", value))[0]
        if not isfinite(score):
            raise self._fault(number, "finite")
        return score

    def bytes(self, number: int) -> bytes:
        value = self.values.get(number, memoryview(b""))
        if not isinstance(value, memoryview):
            raise self._fault(number, "bytes")
        return value.tobytes()

    def text(self, number: int) -> str:
        try:
            found = self.bytes(number).decode()
        except UnicodeDecodeError as error:
            raise self._fault(number, f"UTF-8 ({error})") from None
        if not found:
            raise self._fault(number, "a text that is not empty")
        return found

    def _fault(self, number: int, wanted: str) -> ValueError:
        return ValueError(f"field {number} of the message at byte {self.base} must be {wanted}")


def _fields(data: memoryview, base: int) -> Iterator[tuple[int, int, int | memoryview]]:
    """(field, byte in the file where its value begins, value) of a message's fields in turn."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at, base)
        number, kind = key >> 3, key & 7
        if kind == 0:
            begin = at
            value, at = _varint(data, at, base)
            yield number, base + begin, value
            continue
        if kind == 2:
            length, at = _varint(data, at, base)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"byte {base + at}: wire type {kind} is unknown")
        if length > len(data) - at:
            raise ValueError(f"byte {base + at}: {length} bytes are needed, {len(data) - at} left")
        part = data[at : at + length]
        yield number, base + at, part if kind == 2 else int.from_bytes(part, "little")
        at += length


def _varint(data: memoryview, at: int, base: int) -> tuple[int, int]:
    """A number of up to 64 bits, seven to a byte, and where it ends."""
    result = 0
    for i, byte in enumerate(data[at : at + 10]):
        result |= (byte & 127) << 7 * i
        if byte < 128:
            return result, at + i + 1
    raise ValueError(f"byte {base + at}: a number does not end")
