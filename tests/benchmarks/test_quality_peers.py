"""What llama-perplexity writes and prints, read as it is; and the table."""

import struct
from pathlib import Path

import pytest

from benchmarks.quality_peers import WINDOW, Cost, Row, read_cost, read_windows, table

SAID = """
Mean PPL(Q)                   :  14.362133 \u00b1   1.774413
Mean PPL(base)                :  14.336827 \u00b1   1.773889
====== KL divergence statistics ======
Mean    KLD:   0.004456 \u00b1   0.000231
Maximum KLD:   0.050310
"""


def test_what_is_printed() -> None:
    assert read_cost(SAID) == Cost(14.362133, 0.004456)
    with pytest.raises(ValueError, match="printed no perplexity or divergence: nothing"):
        read_cost("nothing")


def test_the_tokens_of_each_window(tmp_path: Path) -> None:
    tokens = list(range(2 * WINDOW))
    file = tmp_path / "base"
    head = b"_logits_" + struct.pack("<iii", WINDOW, 7, 2)
    file.write_bytes(head + struct.pack(f"<{len(tokens)}i", *tokens) + b"distributions")
    assert read_windows(file) == [tokens[:WINDOW], tokens[WINDOW:]]
    file.write_bytes(b"_other__" + head[8:])
    with pytest.raises(ValueError, match="does not begin as llama-perplexity writes it"):
        read_windows(file)


def test_what_is_above_by_more_than_two_percent_is_marked() -> None:
    rows = {
        "Q4_0": Row("llama.cpp Q4_0", Cost(20.0, 0.1), Cost(20.5, 0.101)),
        "int8": Row("compressed-tensors", Cost(20.0, 0.1), Cost(20.5, 0.103)),
    }
    lines = table(rows).splitlines()
    assert lines[2].endswith("| 0.10000 | 0.10100 | 1.010 |")
    assert lines[3].endswith("| 1.030 * |")
