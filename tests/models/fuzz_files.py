"""Damaged files of every format, as long as one likes: `make fuzz`. Not part of the suite.

atheris changes sound files guided by the lines that run. Whatever they become, reading them ends in
a result or in a ValueError or OSError that names the file, soon and in little memory. What it finds
goes into the tests of the file at fault.

    python -m tests.models.fuzz_files gguf -max_total_time=60 [corpus]
"""

import json
import struct
import subprocess
import sys
import tempfile
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["pieria.models"]):
    from pieria.models import loader
    from pieria.models.checkpoint import open_checkpoint
    from pieria.models.gguf import FORMATS, read_gguf
    from pieria.models.gguf_config import hf_config
    from pieria.models.gguf_parts import read_gguf_parts
    from pieria.models.keys import Keys
    from pieria.models.names import Names, gguf_names, rooted
    from pieria.models.registry import family, model_config
    from pieria.models.safetensors_file import read_header
    from pieria.models.tensor_reader import TensorReader
    from pieria.models.tokenizer import Tokenizer

import tokenizers
import torch
from tokenizers import models, normalizers, pre_tokenizers

from pieria.models.decoder import Decoder
from pieria.parallel.mesh import Mesh
from tests.models.gguf_bytes import ARRAY, STRING, U32, file, pair, tensor, text
from tests.models.gguf_keys import BYTES
from tests.models.sentencepiece_bytes import model as sentencepiece_model
from tests.models.small_configs import CONFIGS, GGUF_CONFIGS, GGUF_SIZES

TEXT = "Ab 12!\n  <s>é\U0001f389 " * 3
MOST_ELEMENTS = 1 << 16
"""Of a tensor that is read."""


def use(tokenizer: Tokenizer) -> None:
    tokenizer.decode(tokenizer.encode(TEXT))


def read(reader: TensorReader) -> None:
    for name in reader.names():
        shape = reader.shape(name)
        if torch.Size(shape).numel() <= MOST_ELEMENTS:
            reader.read_into(name, torch.empty(shape))


def load(path: Path) -> None:
    checkpoint = open_checkpoint(path)
    model = loader.build(checkpoint, Mesh(), torch.float32)
    loader.load(checkpoint, model, "cpu")


def gguf(data: bytes, folder: Path) -> None:
    (folder / "m.gguf").write_bytes(data)
    found = read_gguf_parts(folder / "m.gguf")
    with suppress(ValueError):
        hf_config(found)
    with suppress(ValueError):
        read(TensorReader(found.tensors))
    use(Tokenizer.from_gguf(found.metadata, "m.gguf"))


def gguf_model(data: bytes, folder: Path) -> None:
    (folder / "m.gguf").write_bytes(data)
    load(folder / "m.gguf")


def model(data: bytes, folder: Path) -> None:
    """config.json, a byte 0, model.safetensors."""
    config, _, tensors = data.partition(b"\0")
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "config.json").write_bytes(config)
    (folder / "model" / "model.safetensors").write_bytes(tensors)
    load(folder / "model")


def safetensors(data: bytes, folder: Path) -> None:
    (folder / "m.safetensors").write_bytes(data)
    read(TensorReader(read_header(folder / "m.safetensors")))


def tokenizer_json(data: bytes, folder: Path) -> None:
    (folder / "tokenizer.json").write_bytes(data)
    use(Tokenizer.from_json(folder / "tokenizer.json", {}))


def sentencepiece(data: bytes, folder: Path) -> None:
    (folder / "tokenizer.model").write_bytes(data)
    use(Tokenizer.from_sentencepiece(folder / "tokenizer.model", {}, {}))


# Sound files to begin with


def values(kind: int, items: Any) -> bytes:
    """An array of a GGUF file."""
    if kind == STRING:
        return struct.pack("<IQ", kind, len(items)) + b"".join(map(text, items))
    return struct.pack("<IQ", kind, len(items)) + items.tobytes()


def gguf_seeds() -> Iterator[bytes]:
    llama = {"context_length": 8, "embedding_length": 4, "block_count": 1, "feed_forward_length": 4}
    keys = [pair(f"llama.{k}", U32, struct.pack("<I", v)) for k, v in llama.items()]
    keys.append(pair("llama.attention.head_count", U32, struct.pack("<I", 2)))
    keys.append(pair("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-5)))
    keys.append(pair("general.architecture", STRING, text("llama")))
    pieces = ["<unk>", "<s>", "</s>", "<0x0A>", "\u2581", "a", "b", "ab", "\u2581a"]
    for name, tokens, merges in [
        ("gpt2", [*BYTES, "ab", "<s>"], ["a b"]),
        ("llama", pieces, []),
        ("t5", pieces, []),
        ("gemma4", pieces, ["a b"]),
        ("bert", ["[UNK]", "\u2581ab", "b"], []),
    ]:
        own = {
            "model": (STRING, text(name)),
            "tokens": (ARRAY, values(STRING, tokens)),
            "merges": (ARRAY, values(STRING, merges)),
            "scores": (ARRAY, values(6, array("f", range(len(tokens))))),
            "token_type": (ARRAY, values(5, array("i", [2, *[1] * (len(tokens) - 2), 3]))),
            "unknown_token_id": (U32, bytes(4)),
            "bos_token_id": (U32, bytes(4)),
            "seperator_token_id": (U32, bytes(4)),
        }
        yield file([*keys, *(pair(f"tokenizer.ggml.{k}", *v) for k, v in own.items())])
    for number, form in FORMATS.items():
        parts = [tensor("t", (2, form.block), number, 0)]
        yield file(keys, parts, bytes(range(1, 9)) * (form.block_bytes // 4 + 8))


def shapes(keys: Keys, names: Names) -> dict[str, tuple[int, ...]]:
    """Of the tensors that a model with this config has."""
    logical = Decoder(model_config(keys), Mesh(), torch.float32).logical()
    places = (loader._places(weight, names, logical) for weight in logical)
    return {place.name: place.stored for several in places for place in several}


def typed(value: Any) -> tuple[int, bytes]:
    if isinstance(value, str):
        return STRING, text(value)
    return (6, struct.pack("<f", value)) if value % 1 else (U32, struct.pack("<I", value))


def gguf_model_seeds() -> Iterator[bytes]:
    for arch, own in GGUF_CONFIGS.items():
        keys = [pair(f"{arch}.{k}", *typed(v)) for k, v in {**GGUF_SIZES, **own}.items()]
        keys.append(pair("general.architecture", STRING, text(arch)))
        keys.append(pair("tokenizer.ggml.tokens", ARRAY, values(STRING, ["a", "b", "c"])))
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "m.gguf"
            path.write_bytes(file(keys))
            config = Keys(hf_config(read_gguf(path)), arch)
        parts, data = [], b""
        for name, shape in shapes(config, gguf_names(model_config(config).family, ())).items():
            parts.append(tensor(name, shape, 0, len(data)))
            count = torch.Size(shape).numel()
            data += struct.pack("<f", -1) * count + bytes(-4 * count % 32)
        yield file(keys, parts, data)


def model_seeds() -> Iterator[bytes]:
    for name, config in CONFIGS.items():
        keys = Keys(config, name)
        header: dict[str, Any] = {}
        end = 0
        for name, shape in shapes(keys, rooted(family(keys).NAMES, ())).items():
            begin, end = end, end + torch.Size(shape).numel()
            header[name] = {"dtype": "F8_E4M3", "shape": shape, "data_offsets": [begin, end]}
        head = json.dumps(header).encode()
        yield json.dumps(config).encode() + b"\0" + struct.pack("<Q", len(head)) + head + bytes(end)


def safetensors_seeds() -> Iterator[bytes]:
    for dtype, size in (("F32", 4), ("BF16", 2), ("F8_E4M3", 1)):
        entry = {"dtype": dtype, "shape": [2, 3], "data_offsets": [0, 6 * size]}
        header = json.dumps({"a": entry, "__metadata__": {"x": "y"}}).encode()
        yield struct.pack("<Q", len(header)) + header + bytes(6 * size)


def tokenizer_json_seeds() -> Iterator[bytes]:
    bytes_too = {token: id for id, token in enumerate([*BYTES, "ab", "<s>"])}
    backend = tokenizers.Tokenizer(models.BPE(bytes_too, [("a", "b")]))
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace("x", "y")])
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 257)]
    )
    backend.add_special_tokens(["<s>"])
    yield backend.to_str().encode()
    backend = tokenizers.Tokenizer(
        models.Unigram([("<unk>", 0.0), ("a", -1.0), ("\u2581", -2.0)], 0)
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = tokenizers.decoders.Metaspace()
    yield backend.to_str().encode()


def sentencepiece_seeds() -> Iterator[bytes]:
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("a", -1.0, 1), ("\u2581", -2.0, 1)]
    for kind in (1, 2):
        yield sentencepiece_model(
            [*pieces, ("<0x0A>", 0.0, 6), ("\u2581a", -3.0, 1), ("b", -1.0, 4)], kind=kind
        )


TARGETS: Mapping[str, tuple[Callable[[bytes, Path], None], Callable[[], Iterator[bytes]]]] = {
    "gguf": (gguf, gguf_seeds),
    "gguf_model": (gguf_model, gguf_model_seeds),
    "model": (model, model_seeds),
    "safetensors": (safetensors, safetensors_seeds),
    "tokenizer_json": (tokenizer_json, tokenizer_json_seeds),
    "sentencepiece": (sentencepiece, sentencepiece_seeds),
}


def main() -> None:
    """Of the format named first, else a minute of each."""
    if len(sys.argv) == 1:
        for name in TARGETS:
            again = [sys.executable, "-m", "tests.models.fuzz_files", name, "-max_total_time=60"]
            subprocess.run(again, check=True)
        return
    name, *options = sys.argv[1:]
    target, seeds = TARGETS[name]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        folder, corpus = Path(directory), Path(directory) / "corpus"
        corpus.mkdir()

        def once(data: bytes) -> None:
            with suppress(ValueError, OSError):
                target(data, folder)

        for i, seed in enumerate(seeds()):
            once(seed)
            (corpus / str(i)).write_bytes(seed)
        limits = ["-timeout=10", "-rss_limit_mb=2048", "-max_len=30000"]
        atheris.Setup([sys.argv[0], *limits, *options, str(corpus)], once)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
