import re
from pathlib import Path

import pytest

from pieria.models import json_file
from pieria.models.json_file import parse_json, read_bounded, read_json, read_json_list


def test_an_object(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [1, 2.5, null, true, "ü"], "b": {"c": -1e30}}', "utf-8")
    assert read_json(tmp_path / "a.json") == {"a": [1, 2.5, None, True, "ü"], "b": {"c": -1e30}}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "x: invalid JSON"),
        (b'{"a": ', "x: invalid JSON"),
        (b'"\xff"', "x: invalid JSON"),
        (b"[1]", "x: expected a JSON object, found list"),
        (b"3", "x: expected a JSON object, found int"),
        (b'{"a": NaN}', "NaN is not a finite number"),
        (b'{"a": [-Infinity]}', "-Infinity is not a finite number"),
        (b'{"a": 1e999}', "1e999 is not a finite number"),
        (b'{"b": {"a": 1, "a": 1}}', "the key 'a' occurs twice"),
        (b'{"a":' * 50_000, "x: JSON is nested too deeply"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "x: invalid JSON"),
    ],
)
def test_what_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_json(data, "x")


def test_an_array(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[1, {"a": 2}]')
    assert read_json_list(path) == [1, {"a": 2}]
    for text, message in (("{}", "expected a JSON array, found dict"), ("[1], 2", "invalid JSON")):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_json_list(path)


def test_size_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_file, "MAX_BYTES", 10)
    path = tmp_path / "a.json"
    path.write_bytes(b'{"a": 123}')
    assert len(read_bounded(path)) == 10
    path.write_bytes(b'{"a": 1234}')
    with pytest.raises(ValueError, match=r"a\.json: larger than the 10 bytes allowed"):
        read_json(path)
