"""Reading in pieces against reading at once, with the safetensors library and gguf as oracles."""

import subprocess
import sys
from pathlib import Path

import gguf
import numpy
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from pieria.models import tensor_reader
from pieria.models.gguf import FORMATS, read_gguf
from pieria.models.safetensors_file import read_header
from pieria.models.stored_tensor import StoredTensor
from pieria.models.tensor_reader import TensorReader
from pieria.ops.formats import ggml
from tests.models.gguf_bytes import file, tensor

FLOATS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
BLOCKS = {f.name: f for f in FORMATS.values() if f.name in ggml.PARTS}


def blocks(kind: str, shape: tuple[int, ...], seed: int) -> tuple[bytes, Tensor]:
    """Random stored bytes and the numbers they stand for, without an infinity or NaN."""
    numbers = BLOCKS[kind]
    generator = numpy.random.default_rng(seed)
    count = int(numpy.prod(shape)) // numbers.block
    raw = generator.integers(0, 64, (count, numbers.block_bytes), dtype=numpy.uint8)
    values = gguf.dequantize(raw, gguf.GGMLQuantizationType[kind])
    return raw.tobytes(), torch.from_numpy(values).reshape(shape)


def stored(
    kind: str, shape: tuple[int, ...], folder: Path, seed: int
) -> tuple[StoredTensor, Tensor]:
    """A tensor in a file behind some other bytes, and its numbers."""
    if kind in BLOCKS:
        raw, values = blocks(kind, shape, seed)
        number = next(n for n, f in FORMATS.items() if f.name == kind)
        parts = [tensor("before", (3,), 0, 0), tensor("t", shape, number, 32)]
        (folder / "t.gguf").write_bytes(file([], parts, bytes(32) + raw))
        return read_gguf(folder / "t.gguf").tensors["t"], values
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator, dtype=torch.float64).to(FLOATS[kind])
    save_file({"a": torch.zeros(3), "t": values}, folder / "t.safetensors")
    return read_header(folder / "t.safetensors")["t"], values


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_any_part_in_any_block_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from([*FLOATS, *BLOCKS]))
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple))
    if kind in BLOCKS:
        shape = (*shape[:-1], shape[-1] * BLOCKS[kind].block)
    first = tuple(data.draw(st.just(0) | st.integers(0, length)) for length in shape)
    sizes = tuple(
        data.draw(st.just(length - low) | st.integers(0, length - low))
        for low, length in zip(first, shape, strict=True)
    )
    dtype = data.draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16]))
    least = BLOCKS[kind].block_bytes if kind in BLOCKS else 36
    monkeypatch.setattr(tensor_reader, "BLOCK_BYTES", data.draw(st.integers(least, 400)))
    place, values = stored(kind, shape, tmp_path, seed=data.draw(st.integers(0, 9)))
    # With guards on all sides, and then not contiguous, or before and behind.
    guarded = len(shape) if data.draw(st.booleans()) else 1
    room = torch.full([n + 2 * (dim < guarded) for dim, n in enumerate(sizes)], -7.0, dtype=dtype)
    inner = tuple(slice(1, size + 1) for size in sizes[:guarded])
    out = room[inner]
    TensorReader({"t": place}).read_into("t", out, first)
    expected = values[tuple(slice(f, f + n) for f, n in zip(first, sizes, strict=True))]
    expected = (expected if kind.startswith("F") else expected.double()).to(dtype)
    assert torch.equal(out, expected)
    room[inner] = -7
    assert (room == -7).all()


def test_a_scalar(tmp_path: Path) -> None:
    save_file({"s": torch.tensor(2.5)}, tmp_path / "s.safetensors")
    out = torch.zeros(())
    TensorReader(read_header(tmp_path / "s.safetensors")).read_into("s", out)
    assert out.item() == 2.5


def test_the_real_file(smollm2: Path) -> None:
    found = read_gguf(smollm2)
    reader = TensorReader(found.tensors)
    assert reader.names() == list(found.tensors)
    for name in ("token_embd.weight", "blk.3.ffn_down.weight", "blk.0.attn_norm.weight"):
        place = found.tensors[name]
        raw = numpy.fromfile(smollm2, numpy.uint8, place.byte_count, offset=place.offset)
        values = gguf.dequantize(raw, gguf.GGMLQuantizationType[place.format.name])
        expected = torch.from_numpy(values).reshape(place.shape)
        assert reader.shape(name) == expected.shape
        out = torch.empty_like(expected)
        reader.read_into(name, out)
        assert torch.equal(out, expected)
        half = torch.empty(*expected.shape[:-1], expected.shape[-1] // 2)
        reader.read_into(name, half, (*[0] * (expected.ndim - 1), half.shape[-1]))
        assert torch.equal(half, expected[..., half.shape[-1] :])


@pytest.mark.parametrize(
    ("out", "first"),
    [
        (torch.empty(4, 9), (0, 0)),
        (torch.empty(4, 8), (0, 1)),
        (torch.empty(4, 8), (1, 0)),
        (torch.empty(5, 8), ()),
        (torch.empty(4, 8), (-1, 0)),
        (torch.empty(4, 8), (0,)),
        (torch.empty(32), ()),
        (torch.empty(1, 4, 8), ()),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, out: Tensor, first: tuple[int, ...]) -> None:
    save_file({"t": torch.zeros(4, 8)}, tmp_path / "t.safetensors")
    reader = TensorReader(read_header(tmp_path / "t.safetensors"))
    with pytest.raises(ValueError, match=r"tensor 't' of shape \(4, 8\) has no"):
        reader.read_into("t", out, first)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "k.gguf"
    path.write_bytes(file([], [tensor("t", (256,), 29, 0)], bytes(56)))
    reader = TensorReader(read_gguf(path).tensors)
    with pytest.raises(ValueError, match=r"tensor 't' holds IQ1_M numbers; supported are: .*Q4_1"):
        reader.read_into("t", torch.empty(256))
    with pytest.raises(ValueError, match="no tensor 'u' among the 1"):
        reader.shape("u")


def test_packed_bytes_are_no_numbers(tmp_path: Path) -> None:
    values = torch.arange(6, dtype=torch.uint8).view(2, 3)
    save_file({"p": values, "t": torch.ones(2, 3)}, tmp_path / "t.safetensors")
    reader = TensorReader(read_header(tmp_path / "t.safetensors"))
    out = torch.empty(2, 2, dtype=torch.uint8)
    reader.read_into("p", out, (0, 1))
    assert torch.equal(out, values[:, 1:])
    with pytest.raises(ValueError, match="tensor 'p' holds U8 numbers; supported are: F64, F32"):
        reader.read_into("p", torch.empty(2, 3))
    with pytest.raises(ValueError, match="tensor 't' holds F32 numbers; supported are: U8"):
        reader.read_into("t", out, (0, 1))


def test_a_file_that_shrinks(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    save_file({"t": torch.zeros(64)}, path)
    reader = TensorReader(read_header(path))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(OSError, match="has become shorter"):
        reader.read_into("t", torch.empty(64))


PEAK = r"""
import re, sys, torch
from pathlib import Path
from pieria.models.stored_tensor import NumberFormat, StoredTensor
from pieria.models.tensor_reader import TensorReader
path, name, block, size = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
rows, columns = 4096, 8192

def peak_kib():
    return int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1])

path.touch()
with path.open("r+b") as file:
    file.truncate(rows * columns // block * size)  # sparse
numbers = NumberFormat(name, block, size)
reader = TensorReader({n: StoredTensor(path, s, numbers, 0) for n, s in
                       {"t": (rows, columns), "warm": (1, block)}.items()})
reader.read_into("warm", torch.zeros(1, block, dtype=torch.bfloat16))
out = torch.ones(rows, columns, dtype=torch.bfloat16)
before = peak_kib()
reader.read_into("t", out)
reader.read_into("t", out[:, : columns // 2], (0, 8))
print(peak_kib() - before, out.sum().item())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the peak")
@pytest.mark.parametrize(("name", "block", "size"), [("F32", 1, 4), ("Q3_K", 256, 110)])
def test_memory_is_one_block(tmp_path: Path, name: str, block: int, size: int) -> None:
    """A tensor of 64 MiB (128 in the file) costs no more than a few beyond itself."""
    arguments = [str(tmp_path / "t"), name, str(block), str(size)]
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *arguments], capture_output=True, text=True, check=True
    )
    grown_kib, total = done.stdout.split()
    assert float(total) == 0
    assert int(grown_kib) < 8 << 10
