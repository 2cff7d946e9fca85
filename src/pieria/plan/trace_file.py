"""Recorded traffic: a CSV file with a request a line, as `arrived_at` (seconds, not in all files),
`num_prefill_tokens` and `num_decode_tokens`; further columns are not read.

Knows the file's form. Does not know what is done with it.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

ARRIVED, PROMPT, ANSWER = "arrived_at", "num_prefill_tokens", "num_decode_tokens"

MOST_TOKENS = 1 << 24


@dataclass(frozen=True)
class Recorded:
    """name: of the file. arrivals: seconds, never falling; None if the file has none.

    prompts, answers: tokens of each request, at least 1.
    """

    name: str
    arrivals: tuple[float, ...] | None
    prompts: tuple[int, ...]
    answers: tuple[int, ...]


def recorded(path: Path) -> Recorded:
    """ValueError naming file, line, field and value of what cannot be read; OSError if the file
    cannot be opened.
    """
    arrivals: list[float] = []
    prompts: list[int] = []
    answers: list[int] = []
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        try:
            header = [name.strip() for name in next(rows, [])]
            missing = [name for name in (PROMPT, ANSWER) if name not in header]
            if missing:
                raise ValueError(
                    f"{path}, line 1: there is no column {missing[0]!r}; a trace has {PROMPT},"
                    f" {ANSWER} and perhaps {ARRIVED}; this has: {', '.join(header) or 'none'}"
                )
            timed = ARRIVED in header
            places = [header.index(name) for name in (PROMPT, ANSWER)]
            place = header.index(ARRIVED) if timed else 0
            for row in rows:
                where = f"{path}, line {rows.line_num}"
                if not row:
                    continue
                if len(row) != len(header):
                    raise ValueError(
                        f"{where}: it has {len(row)} fields, and the header {len(header)}"
                    )
                prompts.append(_tokens(row[places[0]], where, PROMPT))
                answers.append(_tokens(row[places[1]], where, ANSWER))
                if timed:
                    before = arrivals[-1] if arrivals else 0.0
                    arrivals.append(_arrival(row[place], where, before))
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path}, line {rows.line_num}: {error}") from error
    if not prompts:
        raise ValueError(f"{path} has no requests")
    return Recorded(path.name, tuple(arrivals) if timed else None, tuple(prompts), tuple(answers))


def _tokens(text: str, where: str, field: str) -> int:
    """An answer of no tokens was asked for with one."""
    if not text.strip().isdecimal() or int(text) > MOST_TOKENS:
        raise ValueError(
            f"{where}: {field}={text!r} must be a whole number of tokens up to {MOST_TOKENS}"
        )
    return max(1, int(text))


def _arrival(text: str, where: str, before: float) -> float:
    try:
        at = float(text)
    except ValueError:
        at = float("nan")
    if not before <= at < float("inf"):
        raise ValueError(
            f"{where}: {ARRIVED}={text!r} must be seconds, and no fewer than the {before:g} of the"
            " request before"
        )
    return at
