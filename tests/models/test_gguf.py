"""The parser against the gguf package, and against files that lie."""

import itertools
import random
import re
import struct
import tracemalloc
from pathlib import Path

import gguf
import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pieria.models.gguf import read_floats, read_gguf
from tests.models.gguf_bytes import ARRAY, STRING, U32, file, pair, tensor, text

HUGE = 2**64 - 1
SMALL = file(
    [
        pair("general.architecture", STRING, text("llama")),
        pair("general.alignment", U32, struct.pack("<I", 32)),
        pair("a.words", ARRAY, struct.pack("<IQ", STRING, 3) + text("x") + text("") + text("é")),
        pair("a.numbers", ARRAY, struct.pack("<IQ2f", 6, 2, 1.5, -2.0)),
        pair("a.yes", 7, b"\1"),
    ],
    [tensor("w", (2, 32), 8, 0), tensor("v", (3,), 0, 96)],
    bytes(range(68)) + bytes(28) + struct.pack("<3f", 1, 2, 3),
)


def read(data: bytes, folder: Path) -> object:
    path = folder / "file.gguf"
    path.write_bytes(data)
    return read_gguf(path)


def test_the_real_file_reads_as_gguf_reads_it(smollm2: Path) -> None:
    ours, theirs = read_gguf(smollm2), gguf.GGUFReader(smollm2)
    assert ours.version == 3
    fields = {k: f.contents() for k, f in theirs.fields.items() if not k.startswith("GGUF.")}
    assert list(ours.metadata) == list(fields)
    for key, value in fields.items():
        mine = ours.metadata[key]
        assert (list(mine) if isinstance(value, list) else mine) == value, key
    assert list(ours.tensors) == [t.name for t in theirs.tensors]
    for their in theirs.tensors:
        mine = ours.tensors[their.name]
        assert mine.shape == tuple(int(n) for n in reversed(their.shape))
        assert (mine.offset, mine.byte_count) == (their.data_offset, their.n_bytes)
        assert mine.format.name == their.tensor_type.name


def test_every_value_type(tmp_path: Path) -> None:
    path = tmp_path / "all.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint8("u8", 200)
    writer.add_int8("i8", -100)
    writer.add_uint16("u16", 60000)
    writer.add_int16("i16", -30000)
    writer.add_uint32("u32", 4 * 10**9)
    writer.add_int32("i32", -2 * 10**9)
    writer.add_uint64("u64", 2**63)
    writer.add_int64("i64", -(2**62))
    writer.add_float32("f32", 0.5)
    writer.add_float64("f64", 0.1)
    writer.add_bool("no", False)
    writer.add_string("text", "größe 🎉")
    writer.add_array("words", ["a", "", "ß"])
    writer.add_array("flags", [True, False])
    writer.add_array("floats", [1.5, -2.0])
    writer.add_array("lists", [[1, 2], [3]])
    writer.add_tensor("t", numpy.arange(6, dtype=numpy.float32).reshape(2, 3))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = read_gguf(path)
    values = {k: found.metadata[k] for k in found.metadata if k != "general.architecture"}
    assert values.pop("floats").tolist() == [1.5, -2.0]
    assert [list(row) for row in values.pop("lists")] == [[1, 2], [3]]
    assert values == {
        "u8": 200,
        "i8": -100,
        "u16": 60000,
        "i16": -30000,
        "u32": 4 * 10**9,
        "i32": -2 * 10**9,
        "u64": 2**63,
        "i64": -(2**62),
        "f32": 0.5,
        "f64": 0.1,
        "no": False,
        "text": "größe 🎉",
        "words": ["a", "", "ß"],
        "flags": [True, False],
    }
    assert found.tensors["t"].shape == (2, 3)
    assert read_floats(found.tensors["t"]) == [0, 1, 2, 3, 4, 5]


def test_every_format_has_ggmls_size(tmp_path: Path) -> None:
    """A tensor of one block of each type."""
    for kind, (block, size) in gguf.GGML_QUANT_SIZES.items():
        if kind.name in ("Q8_1", "Q8_K") or int(kind) > 39:
            continue  # those of computations only, and newer ones
        (tmp_path / "one").write_bytes(file([], [tensor("t", (block,), int(kind), 0)], bytes(size)))
        (found,) = read_gguf(tmp_path / "one").tensors.values()
        assert (found.format.name, found.format.block) == (kind.name, block)
        assert found.byte_count == size


def test_version_2(tmp_path: Path) -> None:
    assert read(file([pair("k", STRING, text("v"))], version=2), tmp_path).metadata == {"k": "v"}


def nested(depth: int) -> bytes:
    return struct.pack("<IQ", ARRAY, 1) * depth + struct.pack("<IQI", U32, 1, 7)


def place(*offsets: int, shape: tuple[int, ...] = (8,)) -> list[bytes]:
    return [tensor(f"t{i}", shape, 0, offset) for i, offset in enumerate(offsets)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes are too few"),
        (b"GGML" + bytes(40), "not a GGUF file: it begins with b'GGML'"),
        (file(version=1), "version at byte 4: 1 is not supported, 2 and 3 are"),
        (file(version=3 << 24), "the file is big-endian"),
        (file(pair_count=HUGE), f"metadata count at byte 16: {HUGE} is more than the rest"),
        (file(tensor_count=2**60), f"tensor count at byte 8: {2**60} is more than the rest"),
        (file([struct.pack("<Q", HUGE) + b"key45678"]), "metadata key 0 at byte 24"),
        (file([pair("k", STRING, struct.pack("<Q", 2**40))]), "k at byte 37"),
        (file([pair("k", ARRAY, struct.pack("<IQ", 0, 2**63))]), "k at byte 41"),
        (file([pair("k", ARRAY, struct.pack("<IQ", STRING, 9) + bytes(60))]), "k at byte 41"),
        (file([pair("k", ARRAY, struct.pack("<IQ", STRING, 1) + text("a")[:8])]), "k[0]"),
        (file([pair("k", ARRAY, struct.pack("<IQ", STRING, 1) + text(b"\xff"))]), "k[0] at byte"),
        (file([pair("k", 13, bytes(8))]), "k at byte 37: value type 13 is unknown"),
        (file([pair("k", ARRAY, struct.pack("<IQ", 99, 1) + bytes(8))]), "value type 99 is"),
        (file([pair("k", 7, b"\2")]), "k at byte 37: a bool must be 0 or 1, not 2"),
        (file([pair("k", STRING, text(b"\xff"))]), "not UTF-8"),
        (file([pair("", U32, bytes(4))]), "must have 1 to 65535 bytes"),
        (file([pair("k" * 65536, U32, bytes(4))]), "must have 1 to 65535 bytes"),
        (file([pair("k", U32, bytes(4))] * 2), "metadata key 'k' at byte 41: occurs twice"),
        (file([pair("k", ARRAY, nested(20))]), "arrays are nested more than 8 deep"),
        (
            file([pair("general.alignment", U32, struct.pack("<I", 24))]),
            "general.alignment=24 must be a power of two",
        ),
        (
            file([pair("general.alignment", STRING, text("32"))]),
            "general.alignment='32' must be a power of two",
        ),
        (file([], [tensor("t", (1,) * 5, 0, 0)], bytes(32)), "5 dimensions; at most 4"),
        (file([], [tensor("t", (2**40, 2**40), 0, 0)], bytes(32)), "is empty or too large"),
        (file([], [tensor("t", (4, 0), 0, 0)], bytes(32)), "is empty or too large"),
        (file([], [tensor("t", (4,), 5, 0)], bytes(32)), "ggml type 5 is unknown"),
        (file([], [tensor("t", (32, 33), 8, 0)], bytes(99)), "no multiple of Q8_0's 32"),
        (file([], [tensor("t", (4,), 0, 8)], bytes(32)), "offset 8 is no multiple of 32"),
        (file([], [tensor("t", (9,), 0, 0)], bytes(32)), "'t' ends at byte 100, the file at 96"),
        (file([], [tensor("t", (4,), 0, HUGE - 31)], bytes(32)), "'t' ends at byte"),
        (file([], place(0, 0), bytes(32)), "tensor 't1' at byte 96 overlaps tensor 't0'"),
        (file([], place(0, 32, shape=(9,)), bytes(68)), "overlaps tensor 't0'"),
        (file([], place(0)[:1] * 2, bytes(32)), "tensor 't0' at byte 58: occurs twice"),
    ],
    ids=itertools.count(),
)  # fmt: skip
def test_a_file_that_lies_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=re.escape(message)) as caught:
            read(data, tmp_path)
        assert str(tmp_path / "file.gguf") in str(caught.value)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    assert read(SMALL, tmp_path).metadata["a.words"] == ["x", "", "é"]
    for length in range(len(SMALL)):
        with pytest.raises(ValueError, match=r"file\.gguf"):
            read(SMALL[:length], tmp_path)


@settings(
    deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), max_size=6))
def test_damage_never_crashes_or_allocates(tmp_path: Path, changes: list[tuple[int, int]]) -> None:
    data = bytearray(SMALL)
    for at, byte in changes:
        data[at] = byte
    tracemalloc.start()
    try:
        read(bytes(data), tmp_path)
    except ValueError as error:
        assert "file.gguf" in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 200_000


def test_noise_after_the_magic(tmp_path: Path) -> None:
    noise = random.Random(0)
    for size in range(200):
        with pytest.raises(ValueError, match=r"file\.gguf"):
            read(b"GGUF" + struct.pack("<I", 3) + noise.randbytes(size), tmp_path)
