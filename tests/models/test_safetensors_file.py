"""The header reader against the safetensors library, and against files that lie."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save, save_file

from pieria.models.safetensors_file import INDEX, SINGLE, read_header, read_shards, shards

TENSORS = {
    "a.weight": torch.arange(6.0).reshape(2, 3),
    "b": torch.ones(4, dtype=torch.bfloat16),
    "scalar": torch.tensor(3, dtype=torch.int64),
    "empty": torch.zeros(0, 5),
}


def lie(**changes: Any) -> bytes:
    """A file of one float32 tensor of two elements, with other words in its header."""
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}
    return packed({"t": {k: v for k, v in entry.items() if v is not None}})


def packed(header: Any, data: bytes = bytes(8)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_as_the_library_reads_it(tmp_path: Path) -> None:
    path = tmp_path / SINGLE
    save_file(TENSORS, path, metadata={"format": "pt"})
    found = read_header(path)
    with safe_open(path, "pt") as theirs:
        assert set(found) == set(theirs.keys())
        for name in theirs.keys():  # noqa: SIM118 (not a mapping)
            part = theirs.get_slice(name)
            assert list(found[name].shape) == part.get_shape()
            assert found[name].format.name == part.get_dtype()
    data = path.read_bytes()
    a = found["a.weight"]
    assert data[a.offset : a.offset + a.byte_count] == TENSORS["a.weight"].numpy().tobytes()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "does not fit into a file of 0 bytes"),
        (bytes(7), "does not fit into a file of 7 bytes"),
        ((2**63).to_bytes(8, "little") + b"{}", "does not fit into a file of 10 bytes"),
        (packed(b"{"), "header: invalid JSON"),
        (packed(b"[]"), "header: expected a JSON object, found list"),
        (packed(b"[" * 100_000), "header: JSON is nested too deeply"),
        (packed(b'{"t":1,"t":1}'), "the key 't' occurs twice"),
        (packed(b'{"t":NaN}'), "NaN is not a finite number"),
        (packed({"t": 1}), "tensor 't': dtype None is none of"),
        (lie(dtype="F31"), "tensor 't': dtype 'F31' is none of"),
        (lie(dtype=["F32"]), "tensor 't': dtype ['F32'] is none of"),
        (lie(shape=None), "tensor 't': None is no shape"),
        (lie(shape=[-2]), "tensor 't': [-2] is no shape"),
        (lie(shape=[True, 2]), "tensor 't': [True, 2] is no shape"),
        (lie(shape=[2.0]), "tensor 't': [2.0] is no shape"),
        (lie(shape=[1] * 17), "is no shape"),
        (lie(data_offsets=[0]), "data_offsets=[0] must be two offsets"),
        (lie(data_offsets=[0, 4]), "F32 of shape [2] takes 8 bytes, data_offsets=[0, 4] span 4"),
        (lie(shape=[2**62, 2**62]), "takes"),
        (lie(data_offsets=[8, 16]), "ends at byte"),
        (
            packed({n: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for n in "ab"}),
            "tensor 'b' overlaps tensor 'a'",
        ),
    ],
    ids=range(21),
)
def test_a_file_that_lies_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read_header(path)
    assert str(path) in str(caught.value)


@settings(
    deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_damage_is_a_value_error_at_worst(tmp_path: Path, data: st.DataObject) -> None:
    good = save({name: TENSORS[name] for name in ("a.weight", "b")})
    damaged = bytearray(good[: data.draw(st.integers(0, len(good)))])
    for _ in range(data.draw(st.integers(0, 4)) if damaged else 0):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(damaged)
    try:
        found = read_header(path)
    except ValueError as error:
        assert "damaged.safetensors" in str(error)
    else:
        assert all(t.offset + t.byte_count <= len(damaged) for t in found.values())


def write_index(folder: Path, weight_map: Any) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_shards(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2), "unused": torch.ones(1)}, tmp_path / "one.safetensors")
    save_file({"b": torch.ones(3)}, tmp_path / "two.safetensors")
    write_index(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    found = read_shards(shards(tmp_path))
    assert {name: t.path.name for name, t in found.items()} == {
        "a": "one.safetensors",
        "b": "two.safetensors",
    }


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "absent.safetensors"}, "absent.safetensors: missing, although"),
        ({"a": "../one.safetensors"}, "'../one.safetensors' is outside"),
        ({"a": "sub/../../one.safetensors"}, "is outside"),
        ({"a": "/etc/passwd"}, "'/etc/passwd' is outside"),
        ({"a": "..\\one.safetensors"}, "is outside"),
        ({"a": "C:one.safetensors"}, "is outside"),
        ({"a": 3}, "the file of 'a' is 3, not a name"),
        ({}, "weight_map must be an object"),
        (["a"], "weight_map must be an object"),
    ],
)
def test_an_index_that_lies_is_refused(tmp_path: Path, weight_map: Any, message: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for place in (tmp_path, folder):
        save_file({"a": torch.ones(2)}, place / "one.safetensors")
    write_index(folder, weight_map)
    with pytest.raises(ValueError, match=re.escape(message)):
        shards(folder)


def test_a_name_that_its_file_lacks(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "one.safetensors")
    write_index(tmp_path, {"a": "one.safetensors", "b": "one.safetensors"})
    with pytest.raises(ValueError, match=r"one\.safetensors: tensor 'b' is missing"):
        read_shards(shards(tmp_path))
