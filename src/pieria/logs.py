"""What a line of the log looks like, as text or as JSON. Imports nothing of ours.

A message says what happened, and its `extra` fields of which request; neither has text of prompts
or answers, and errors that nobody foresaw are logged with where they were, not with what they say:
that may quote what they choked on. At level debug it is there too.
"""

import json
import logging
import os
import traceback
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

LogFormat = Literal["text", "json"]

TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

FIELDS = (
    "request_id",
    "key",
    "method",
    "route",
    "status",
    "seconds",
    "prompt_tokens",
    "generated_tokens",
)
"""What `extra` may hold."""


class _Standard(logging.StreamHandler):  # type: ignore[type-arg]
    """Ours, to be told from what a program that uses us has set up."""


def configure(form: LogFormat = "text", level: int = logging.INFO) -> None:
    """Log to standard error in this form, unless whose program this is logs elsewhere already."""
    root = logging.getLogger()
    for handler in root.handlers:
        if isinstance(handler, _Standard):
            root.removeHandler(handler)
    if not root.handlers:
        made = _Standard()
        made.setFormatter(Json() if form == "json" else Text(TEXT))
        root.addHandler(made)
        root.setLevel(level)


def to_file(path: Path) -> logging.Handler:
    """What appends JSON lines to a file that no others read. ValueError if it cannot be opened."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))
        made = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise ValueError(f"cannot write to {path}: {error.strerror}") from error
    made.setFormatter(Json())
    return made


class Text(logging.Formatter):
    """One line, its fields at the end."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        found = _fields(record)
        if not found:
            return line
        first, newline, rest = line.partition("\n")
        return f"{first} {' '.join(f'{k}={v}' for k, v in found.items())}{newline}{rest}"


class Json(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, timezone.utc)
        line: dict[str, object] = {
            "time": when.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def where(error: BaseException) -> str:
    """An error's type and the lines it went through, without what it says."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]
    return f"{type(error).__name__} at {' < '.join(reversed(lines))}"


def _fields(record: logging.LogRecord) -> dict[str, object]:
    found = {name: getattr(record, name, None) for name in FIELDS}
    return {name: value for name, value in found.items() if value is not None}
