"""Rows of published measurements, read as what was measured: model, machine, layout, load.

Knows how such rows are written. Does not know how anything is predicted.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

COLUMNS = (
    *("kind", "model", "hardware", "n_gpus", "parallelism", "precision", "batch"),
    *("seq_in", "seq_out", "metric", "value", "unit", "source"),
)


@dataclass(frozen=True)
class Row:
    """A row as it is written. n_gpus, seq_in, seq_out: None where they are not numbers."""

    kind: str
    model: str
    hardware: str
    n_gpus: int | None
    parallelism: str
    precision: str
    batch: str
    seq_in: int | None
    seq_out: int | None
    metric: str
    value: float
    unit: str
    source: str


@dataclass(frozen=True)
class Layout:
    """One instance. moe_tp, moe_ep: over how many ranks experts are cut, by features and number.

    attention_dp: groups of tp ranks with requests of their own.
    """

    tp: int = 1
    pp: int = 1
    attention_dp: int = 1
    moe_tp: int = 1
    moe_ep: int = 1

    @property
    def cards(self) -> int:
        return self.tp * self.pp * self.attention_dp


@dataclass(frozen=True)
class Pools:
    """Instances that only compute prompts, and those that only generate."""

    prefill: Layout
    prefill_count: int
    decode: Layout
    decode_count: int


@dataclass(frozen=True)
class Wide:
    """Cards that all have requests of their own, and share experts.

    tokens: of a card's step, in prompts of `context` tokens each; or its requests, of so long a
    context each. balanced: tokens fall on experts evenly.
    """

    cards: int
    is_prompt: bool
    tokens: int
    context: int
    balanced: bool


def rows(path: Path) -> Iterator[Row]:
    """ValueError, naming line and column, for a file that is not of this form."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path} has no column {', '.join(missing)}; needed: {COLUMNS}")
        for line in reader:
            if None in line.values() or None in line:
                at = f"{path}, line {reader.line_num}"
                raise ValueError(f"{at} must have {len(reader.fieldnames or ())} fields")
            try:
                value = float(line["value"])
            except ValueError as error:
                at = f"{path}, line {reader.line_num}"
                raise ValueError(f"{at}: value={line['value']!r} is not a number") from error
            if not isfinite(value):
                raise ValueError(f"{path}, line {reader.line_num}: value={value} must be finite")
            numbers = {name: _number(line[name]) for name in ("n_gpus", "seq_in", "seq_out")}
            fields: dict[str, Any] = {name: line[name] for name in COLUMNS}
            yield Row(**{**fields, **numbers, "value": value})


def layout(text: str) -> Layout:
    """From "TP8 PP1 attnDP1 moeTP8 moeEP1", "TP8 aDP1 mTP8 mEP1", "TP8 EP8" or "TP8"."""
    found = {
        name.lower(): int(count)
        for name, count in re.findall(
            r"\b(TP|PP|EP|attnDP|aDP|moeTP|mTP|moeEP|mEP)(\d+)\b", text, re.IGNORECASE
        )
    }
    tp, pp = found.get("tp", 1), found.get("pp", 1)
    if "ep" in found:
        # Experts are cut by number over all ranks, whatever attention is.
        return Layout(tp, pp, max(1, found["ep"] // tp), 1, found["ep"])
    moe_tp = found.get("moetp", found.get("mtp", 1))
    moe_ep = found.get("moeep", found.get("mep", 1))
    attention_dp = found.get("attndp", found.get("adp"))
    if attention_dp is None:
        attention_dp = max(1, moe_tp * moe_ep // tp)
    return Layout(tp, pp, attention_dp, moe_tp, moe_ep)


def pools(text: str) -> Pools | None:
    """From "PD P:1x(TP8 ...) D:9x(TP8 ...)"; None if it is not of this form."""
    match = re.search(r"P:(\d+)x\(([^)]*)\)\s*D:(\d+)x\(([^)]*)\)", text)
    if match is None:
        return None
    return Pools(layout(match[2]), int(match[1]), layout(match[4]), int(match[3]))


def wide(row: Row) -> Wide | None:
    """Of tokens/s of a node; None if it is not that. ValueError for what the row leaves out."""
    found = re.fullmatch(r"(input|output)_tokens_per_s_per_node", row.metric)
    cards = re.search(r"\bEP(\d+)", row.parallelism)
    if found is None or cards is None:
        return None
    count, is_prompt = int(cards[1]), found[1] == "input"
    each = re.match(r"(\d+)\s*(?:tok)?/GPU", row.batch)
    if each is None and not row.batch.isdigit():
        raise ValueError(f"the row does not say how large batches are: {row.batch!r}")
    if row.seq_in is None:
        raise ValueError("the row does not say how long contexts are")
    tokens = int(each[1]) if each else int(row.batch) // count
    context = row.seq_in + (row.seq_out or 0) // 2
    if "MTP" in row.parallelism:
        raise ValueError("several tokens a step are not compared")
    return Wide(count, is_prompt, tokens, context, "perfect" in row.parallelism)


def users(batch: str) -> int | None:
    """From "conc 64"."""
    match = re.fullmatch(r"\s*conc\s*(\d+)\s*", batch)
    return int(match[1]) if match else None


def engine(row: Row) -> str:
    """Who served: "vllm", "sglang", "trtllm", or "" where it is not said."""
    text = f"{row.parallelism} {row.source}".lower().replace("-", "")
    for name, words in (
        ("vllm", ("vllm",)),
        ("sglang", ("sglang",)),
        ("trtllm", ("trtllm", "tensorrtllm", "tensorrt")),
    ):
        if any(word in text for word in words):
            return name
    return ""


def _number(text: str) -> int | None:
    match = re.fullmatch(r"\s*(\d+)\s*", text or "")
    return int(match[1]) if match else None
