"""Text to token ids and back, on the `tokenizers` library. Torch-free.

Knows vocabularies and bytes. Does not know chat templates, or which ids end a generation.

Ids become text through bytes: every token stands for some, an output is their concatenation, and
its text is what they are as UTF-8. So streaming is exact: text given out never changes.
"""

import codecs
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from pieria.models.gguf_vocabulary import read_vocabulary
from pieria.models.json_file import read_bounded
from pieria.models.sentencepiece_file import read_sentencepiece
from pieria.models.vocabularies import MARK, guarded

MAX_SIZE = 1 << 22
"""One more than the largest id; the largest vocabularies have some 300 thousand."""


class Tokenizer:
    """Immutable, so that threads may share it. A static method for each kind of file makes one."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        bos: int | None,
        eos: int | None,
        add_bos: bool = False,
        add_eos: bool = False,
    ) -> None:
        """add_bos, add_eos: besides what the backend adds. size: one more than the largest id.

        ValueError for a vocabulary that spells bytes in a way that is not known.
        """
        self._backend = backend
        self.bos = bos
        self.eos = eos
        self._prefix = [bos] if add_bos and bos is not None else []
        self._suffix = [eos] if add_eos and eos is not None else []
        added = backend.get_added_tokens_decoder()
        self.special_ids = frozenset(id for id, token in added.items() if token.special)
        vocabulary = backend.get_vocab(with_added_tokens=True)
        self.size = max(vocabulary.values(), default=-1) + 1
        if self.size > MAX_SIZE:
            raise ValueError(f"a token has the id {self.size - 1}; ids end at {MAX_SIZE - 1}")
        for id in (bos, eos):
            if id is not None and (type(id) is not int or not 0 <= id < self.size):
                raise ValueError(f"special token id {id!r} must be from 0 to {self.size - 1}")
        self._spelling = _spelling(backend)

    @staticmethod
    def from_json(path: Path, config: Mapping[str, Any]) -> "Tokenizer":
        """From tokenizer.json; config: tokenizer_config.json. ValueError if it cannot be used."""
        backend = guarded(str(path), tokenizers.Tokenizer.from_buffer, read_bounded(path))
        backend.no_truncation()
        backend.no_padding()
        ends = [end for end in ("bos", "eos") if config.get(f"{end}_token") is not None]
        if any(f"add_{end}_token" in config for end in ends):
            backend.post_processor = None  # the config's word counts
        try:
            return Tokenizer(
                backend,
                bos=_id_of(backend, config, "bos_token"),
                eos=_id_of(backend, config, "eos_token"),
                add_bos=config.get("add_bos_token") is True,
                add_eos=config.get("add_eos_token") is True,
            )
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @staticmethod
    def from_sentencepiece(
        path: Path, config: Mapping[str, Any], added: Mapping[str, Any]
    ) -> "Tokenizer":
        """From tokenizer.model; config: tokenizer_config.json; added: added_tokens.json."""
        model = read_sentencepiece(path)
        try:
            backend = model.backend()
            model.vocabulary.add_to(backend)
            _add(backend, config, added)
            bos, eos = (_id_of(backend, config, name) for name in ("bos_token", "eos_token"))
            return Tokenizer(
                backend,
                bos=model.bos if bos is None else bos,
                eos=model.eos if eos is None else eos,
                add_bos=config.get("add_bos_token", True) is True,
                add_eos=config.get("add_eos_token") is True,
            )
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @staticmethod
    def from_gguf(metadata: Mapping[str, Any], source: str) -> "Tokenizer":
        """From the tokenizer.ggml.* keys. source: what to call the file in errors."""
        try:
            made = read_vocabulary(metadata)
            return Tokenizer(
                made.backend,
                bos=made.bos,
                eos=made.eos,
                add_bos=made.add_bos,
                add_eos=made.add_eos,
            )
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None

    def save(self, path: Path) -> None:
        """As tokenizer.json; what is put around a text is for tokenizer_config.json to say."""
        self._backend.save(str(path))

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Special tokens in the text are found either way; the flag is for those put around it.

        ValueError for a lone surrogate, and for a character that a vocabulary has no way to spell.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"the text is not Unicode: {error}") from None
        # Unlike `encode`, `encode_batch` lets other threads run meanwhile.
        encode = self._backend.encode_batch
        [found] = guarded("the tokenizer", encode, [text], add_special_tokens=add_special_tokens)
        ids: list[int] = found.ids
        return self._prefix + ids + self._suffix if add_special_tokens else ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Bytes that are no UTF-8 become U+FFFD. ValueError for an id that is out of range."""
        decoder = self.decoder(skip_special_tokens)
        return decoder.push(ids) + decoder.flush()

    def decoder(self, skip_special_tokens: bool = True) -> "Decoder":
        """A new one for each output."""
        return Decoder(self, skip_special_tokens, self._spelling.strip_first_space)

    @cached_property
    def _bytes(self) -> list[bytes]:
        """What each token stands for; made when text is, as an engine has no use for it."""
        added = self._backend.get_added_tokens_decoder()
        found = [b""] * self.size
        for text, id in self._backend.get_vocab(with_added_tokens=True).items():
            found[id] = self._spelling.bytes_of(text, id in added)
        return found

    def token_bytes(self, id: int) -> bytes:
        """What the token stands for; nothing for an id within the range that is not used."""
        if not 0 <= id < self.size:
            raise ValueError(f"token id {id} is out of range; there are {self.size}")
        return self._bytes[id]

    def token_text(self, id: int) -> str:
        """`token_bytes` as text, with U+FFFD for half a character."""
        return self.token_bytes(id).decode(errors="replace")


class Decoder:
    """One output's ids to text, as they come. What the methods return adds up to `decode`."""

    def __init__(self, tokenizer: Tokenizer, skip_special: bool, strip_first_space: bool) -> None:
        self._tokenizer = tokenizer
        self._skipped = tokenizer.special_ids if skip_special else frozenset[int]()
        self._strip = strip_first_space
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, ids: Sequence[int]) -> str:
        """The text that has become certain: half a character is kept back until the rest comes."""
        known = self._tokenizer.token_bytes
        return self._text(b"".join([known(id) for id in ids if id not in self._skipped]), False)

    def flush(self) -> str:
        """What is left at the end: U+FFFD if a character was never completed."""
        return self._text(b"", True)

    def _text(self, data: bytes, final: bool) -> str:
        text = self._utf8.decode(data, final)
        if self._strip and text:
            self._strip = False
            text = text.removeprefix(" ")
        return text


@dataclass(frozen=True)
class _Spelling:
    """How a vocabulary writes bytes. bytes_of: of a token's text, and whether it was added."""

    bytes_of: Callable[[str, bool], bytes]
    strip_first_space: bool = False


def _spelling(backend: tokenizers.Tokenizer) -> _Spelling:
    """By the backend's decoder: byte-level as in GPT-2, SentencePiece's words with marks, or BERT's
    pieces of words.
    """
    state = json.loads(backend.decoder.__getstate__()) if backend.decoder else {"type": "none"}
    steps = {step["type"]: step for step in state.get("decoders", [state])}
    if steps.keys() == {"ByteLevel"}:
        return _Spelling(_byte_level)
    if steps.keys() == {"WordPiece"} and steps["WordPiece"]["prefix"] == CONTINUED:
        return _Spelling(_word_piece, strip_first_space=True)
    if steps.keys() == {"Metaspace"} and steps["Metaspace"]["replacement"] == MARK:
        return _Spelling(_marked, steps["Metaspace"]["prepend_scheme"] != "never")
    marks = {"pattern": {"String": MARK}, "content": " "}
    if steps.keys() - {"Strip"} == {"Replace", "ByteFallback", "Fuse"} and (
        marks.items() <= steps["Replace"].items()
    ):
        return _Spelling(_marked, "Strip" in steps)
    raise ValueError(
        f"the decoder ({', '.join(steps)}) is not supported;"
        " there are: ByteLevel; Metaspace; Replace, ByteFallback, Fuse, Strip; WordPiece"
    )


def _alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes (encoder.py, bytes_to_unicode)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


BYTE_OF = _alphabet()
CONTINUED = "##"
"""How WordPiece marks what does not begin a word."""


def _byte_level(text: str, added: bool) -> bytes:
    if added or not BYTE_OF.keys() >= set(text):
        return text.encode()
    return bytes(map(BYTE_OF.__getitem__, text))


def _marked(text: str, added: bool) -> bytes:
    byte = text.startswith("<0x") and re.fullmatch("<0x([0-9A-F]{2})>", text)
    return bytes.fromhex(byte[1]) if byte else text.replace(MARK, " ").encode()


def _word_piece(text: str, added: bool) -> bytes:
    """A word begins with a space, also where the decoder would tidy it away."""
    continued = text.startswith(CONTINUED)
    return (text.removeprefix(CONTINUED) if continued or added else f" {text}").encode()


def _add(
    backend: tokenizers.Tokenizer, config: Mapping[str, Any], added: Mapping[str, Any]
) -> None:
    """The tokens that tokenizer_config.json adds, else those of added_tokens.json."""
    listed = config.get("added_tokens_decoder")
    if not isinstance(listed, Mapping):
        listed = {id: {"content": text} for text, id in added.items()}
    tokens: list[tuple[int, AddedToken]] = []
    for id, entry in listed.items():
        text = entry.get("content") if isinstance(entry, Mapping) else None
        if not re.fullmatch("[0-9]{1,9}", str(id)) or not isinstance(text, str) or not text:
            raise ValueError(f"the added token {id!r}: {entry!r} must have an id and a content")
        flags = {flag: entry.get(flag) is True for flag in ("special", "lstrip", "rstrip")}
        tokens.append((int(id), AddedToken(text, normalized=False, **flags)))
    tokens.sort(key=lambda pair: pair[0])
    backend.add_tokens([token for _, token in tokens])
    for id, token in tokens:
        if backend.token_to_id(token.content) != id:
            raise ValueError(f"the added token {token.content!r} cannot have the id {id}")


def _id_of(backend: tokenizers.Tokenizer, config: Mapping[str, Any], name: str) -> int | None:
    """The id of a token that tokenizer_config.json gives as text, or as an object with its text."""
    value = config.get(name)
    text = value.get("content") if isinstance(value, Mapping) else value
    if text is None:
        return None
    id = backend.token_to_id(text) if isinstance(text, str) else None
    if id is None:
        raise ValueError(f"{name}={value!r} of tokenizer_config.json is not in the vocabulary")
    return id
