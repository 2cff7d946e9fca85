"""Trace files, and the errors that name their broken lines."""

from pathlib import Path

import pytest

from pieria.plan.trace_file import Recorded, recorded

HEADER = "arrived_at,num_prefill_tokens,num_decode_tokens"


def write(folder: Path, *lines: str) -> Path:
    path = folder / "some.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_trace_with_times(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER, "0.0,374,44", "4.314579,396,109", "", "4.5,1,0")
    found = recorded(path)
    assert found == Recorded("some.csv", (0.0, 4.314579, 4.5), (374, 396, 1), (44, 109, 1))


def test_a_trace_without_times_and_with_other_columns(tmp_path: Path) -> None:
    path = write(tmp_path, "num_prefill_tokens,num_decode_tokens,pd_ratio", "10,20,0.5", "3,4,x")
    assert recorded(path) == Recorded("some.csv", None, (10, 3), (20, 4))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1.0,many,5", "line 3: num_prefill_tokens='many' must be a whole number of tokens"),
        ("1.0,5,-3", "line 3: num_decode_tokens='-3' must be a whole number of tokens"),
        ("1.0,5,2.5", "line 3: num_decode_tokens='2.5' must be a whole number of tokens"),
        ("1.0,999999999,5", "line 3: num_prefill_tokens='999999999' must be a whole number"),
        ("soon,5,5", "line 3: arrived_at='soon' must be seconds, and no fewer than the 0.5"),
        ("0.4,5,5", "line 3: arrived_at='0.4' must be seconds, and no fewer than the 0.5"),
        ("nan,5,5", "line 3: arrived_at='nan' must be seconds"),
        ("1.0,5", "line 3: it has 2 fields, and the header 3"),
        ("1.0,5,5,5", "line 3: it has 4 fields, and the header 3"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, reason: str) -> None:
    path = write(tmp_path, HEADER, "0.5,5,5", line, "2.0,5,5")
    with pytest.raises(ValueError) as refused:
        recorded(path)
    assert f"{path}, {reason}" in str(refused.value)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("a,b", "line 1: there is no column 'num_prefill_tokens'"),
        ("num_prefill_tokens", "line 1: there is no column 'num_decode_tokens'"),
    ],
)
def test_a_missing_column_is_named(tmp_path: Path, header: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        recorded(write(tmp_path, header, "1,2"))


def test_an_empty_trace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no requests"):
        recorded(write(tmp_path, HEADER))
    empty = tmp_path / "empty.csv"
    empty.touch()
    with pytest.raises(ValueError, match="this has: none"):
        recorded(empty)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bytes.csv"
    path.write_bytes(HEADER.encode() + b"\n1.0,\xff,3\n")
    with pytest.raises(ValueError, match="bytes.csv, line "):
        recorded(path)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="none.csv"):
        recorded(tmp_path / "none.csv")
