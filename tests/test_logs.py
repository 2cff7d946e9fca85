"""Lines of the log: as text, as JSON, and without what errors say."""

import json
import logging
import stat
from pathlib import Path

import pytest

from pieria import logs


def record(message: str = "answered", **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("pieria.server", logging.INFO, "f", 1, message, (), None)
    made.created = 1_700_000_000.5
    vars(made).update(fields)
    return made


def test_json_is_one_line_whatever_is_said() -> None:
    line = logs.Json().format(record('two\nlines "x" 你', request_id="r1", status="200", other=3))
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.500+00:00",
        "level": "info",
        "logger": "pieria.server",
        "message": 'two\nlines "x" 你',
        "request_id": "r1",
        "status": "200",
    }


def test_text_has_the_fields_at_its_end() -> None:
    line = logs.Text("%(levelname)s %(message)s").format(record(request_id="r1", seconds=0.5))
    assert line == "INFO answered request_id=r1 seconds=0.5"


def test_where_an_error_came_from_without_what_it_says() -> None:
    def inner() -> None:
        raise KeyError("a secret prompt")

    with pytest.raises(KeyError) as raised:
        inner()
    told = logs.where(raised.value)
    assert told.startswith("KeyError at ")
    assert "test_logs.py" in told
    assert "in inner" in told
    assert "secret" not in told


def test_a_file_that_nobody_else_reads(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    handler = logs.to_file(path)
    handler.handle(record(key="alice"))
    handler.close()
    assert json.loads(path.read_text())["key"] == "alice"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(ValueError, match="cannot write to"):
        logs.to_file(tmp_path / "none" / "audit.log")


def test_a_program_that_logs_elsewhere_goes_on_doing_so() -> None:
    root = logging.getLogger()
    before = list(root.handlers)
    assert before, "pytest's own"
    logs.configure("json")
    assert root.handlers == before
