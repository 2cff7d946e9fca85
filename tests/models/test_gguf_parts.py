"""Models in several files, as the gguf package cuts them."""

import re
from pathlib import Path

import gguf
import numpy
import pytest
import torch

from pieria.models.checkpoint import open_checkpoint
from pieria.models.gguf import read_gguf
from pieria.models.gguf_parts import part_names, read_gguf_parts
from pieria.models.tensor_reader import TensorReader


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """Seven tensors in three files."""
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama", split_max_tensors=3)
    writer.add_token_list(["a", "b"])
    writer.add_context_length(8)
    writer.add_embedding_length(4)
    writer.add_block_count(1)
    writer.add_feed_forward_length(4)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    for i in range(7):
        writer.add_tensor(f"t{i}", numpy.full((2, 3), i, dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = sorted(tmp_path.glob("*.gguf"))
    assert [path.name for path in found] == part_names("m-00002-of-00003.gguf")
    return found


@pytest.mark.parametrize("given", [0, 1, 2])
def test_any_part_opens_the_model(parts: list[Path], given: int) -> None:
    file = read_gguf_parts(parts[given])
    assert (file.path, file.metadata["llama.block_count"]) == (parts[0], 1)
    reader = TensorReader(file.tensors)
    assert sorted(reader.names()) == [f"t{i}" for i in range(7)]
    for i in range(7):
        out = torch.empty(2, 3)
        reader.read_into(f"t{i}", out)
        assert torch.equal(out, torch.full((2, 3), float(i)))


def test_the_folder_opens_too(parts: list[Path]) -> None:
    assert open_checkpoint(parts[0].parent).path == parts[0]
    assert open_checkpoint(parts[1]).path == parts[0]
    (parts[0].parent / "other.gguf").write_bytes(parts[0].read_bytes())
    with pytest.raises(ValueError, match="holds several GGUF files; give one of them"):
        open_checkpoint(parts[0].parent)


def test_names() -> None:
    assert part_names("a.gguf") == ["a.gguf"]
    assert part_names("a-00001-of-00001.gguf") == ["a-00001-of-00001.gguf"]
    assert part_names("a-00003-of-00002.gguf") == ["a-00003-of-00002.gguf"]
    assert part_names("a-00000-of-00000.gguf") == ["a-00000-of-00000.gguf"]
    assert part_names("a-1-of-2.gguf") == ["a-1-of-2.gguf"]


def test_parts_that_do_not_belong_together(parts: list[Path]) -> None:
    def refused(path: Path, message: str) -> None:
        with pytest.raises(ValueError, match=re.escape(message)):
            read_gguf_parts(path)

    alone = parts[0].with_name("alone.gguf")
    parts[0].rename(alone)
    refused(alone, "alone.gguf: one of 3 parts, whose names must end in -00001-of-0000N.gguf")
    refused(parts[1], "m-00001-of-00003.gguf: missing, although m-00002-of-00003.gguf is one of 3")
    alone.rename(parts[0])
    last = parts[2].read_bytes()
    parts[2].write_bytes(parts[1].read_bytes())
    refused(parts[0], "m-00003-of-00003.gguf: part 2 of 3 expected, not [1, 3]")
    parts[2].write_bytes(last.replace(b"\x02\0\0\0\0\0\0\0t6", b"\x02\0\0\0\0\0\0\0t3"))
    refused(parts[0], "m-00003-of-00003.gguf: tensor 't3' is in another part, too")
    parts[2].write_bytes(last)
    assert read_gguf_parts(parts[0]).tensors.keys() >= read_gguf(parts[2]).tensors.keys()
