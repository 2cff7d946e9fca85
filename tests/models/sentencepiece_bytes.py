"""SentencePiece models byte by byte, so that tests can make wrong ones. Numbers are field numbers
of sentencepiece_model.proto.
"""

import struct
from collections.abc import Sequence


def varint(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])


def field(number: int, value: int | float | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def piece(text: str, score: float = 0.0, kind: int = 1) -> bytes:
    return field(1, field(1, text.encode()) + field(2, score) + field(3, kind))


def model(
    pieces: Sequence[tuple[str, float, int]],
    *,
    kind: int = 2,
    add_space: bool = True,
    collapse: bool = False,
    charsmap: bytes = b"",
    trainer: bytes = b"",
) -> bytes:
    """pieces: text, score, type. kind: 1 for unigram, 2 for BPE. trainer: further fields of it."""
    byte_fallback = any(type == 6 for _, _, type in pieces)
    spaces = field(3, int(add_space)) + field(4, int(collapse))
    return (
        b"".join(piece(*p) for p in pieces)
        + field(2, field(3, kind) + field(35, int(byte_fallback)) + trainer)
        + field(3, field(2, charsmap) + spaces)
    )
