"""The table's medians, ratios and shares, against numbers worked out by hand."""

from typing import Any

import pytest

from benchmarks.peers import report, work
from benchmarks.peers.run import Results

FACTS: dict[str, Any] = {
    "model": "toy",
    "precision": "16bit",
    "machine": "a machine",
    "date": "today",
    "threads": 2,
    "repeats": 3,
    "settle": 30.0,
    "engines": {
        name: {"version": f"{name} 1", "settings": "as it comes"}
        for name in ("pieria", "swift", "broken")
    },
}


class Costs:
    """A gigabyte a step and a GFLOP a token."""

    def decode_bytes(self, context: int) -> int:
        assert context == 32 + 64
        return 10**9

    def prompt_flops(self, tokens: int) -> int:
        return tokens * 10**9


def results() -> Results:
    return Results(
        samples={
            "decode": {
                "pieria": {"rate": [30.0, 20.0, 40.0]},
                "swift": {"rate": [20.0, 10.0, 25.0]},
            },
            "prompt-512": {"pieria": {"rate": [100.0]}, "swift": {"rate": [200.0, 190.0, 210.0]}},
            "shared": {"pieria": {"seconds": [2.0]}, "swift": {"seconds": [5.0]}},
            "server-128": {
                "pieria": {"rate": [1234.5], "goodput": [0.0]},
                "swift": {"rate": [617.25], "goodput": [0.0]},
            },
        },
        problems={"decode": {"broken": "it | ended"}},
        failed={"server-128": {"swift": 3, "pieria": 0}},
        said={"pieria": "Paris", "swift": "Paris", "broken": "Rome"},
        sane={"pieria": True, "swift": True, "broken": False},
        limits={"read": 40e9, "bf16": 400e9},
    )


def rows() -> dict[str, list[str]]:
    text = report.markdown(FACTS, results(), Costs())  # type: ignore[arg-type]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    found = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return {row[0]: row[1:] for row in found}


def test_the_table() -> None:
    found = rows()
    assert found["decode, 1 stream, tok/s"] == [
        "30 (20..40)",
        "20 (10..25)",
        "failed",
        "**1.50**",
        "1.0",
        "75%, 50%",
    ]
    assert found["prompt of 512 tokens, tok/s"] == [
        "100 n=1",
        "200 (190..210)",
        "–",
        "**0.50**",
        "1.0",
        "25%, 50%",
    ]
    # Where less is better, the ratio is above 1 for who takes less.
    assert found["32 requests sharing 1024 + 32 own, 32 out, s"][3:] == ["**2.50**", "1.5", "–"]
    assert found["server, 128 streams of 128 + 64: output, tok/s"][:4] == [
        *("1,234", "617", "–", "**2.00**"),
    ]
    [goodput] = [row for name, row in found.items() if "ITL p99 500 ms" in name]
    assert goodput[3] == "–"
    assert "prompt of 2048 tokens, tok/s" not in found


def test_the_aims_of_a_precision() -> None:
    aims = {"decode": "1.25"}
    text = report.markdown(FACTS, results(), Costs(), aims)  # type: ignore[arg-type]
    assert "| **1.50** | 1.25 | 75%, 50% |" in text
    assert "| **0.50** | – | – |" in text  # a prompt's share is known of 16 bits alone


def test_what_went_wrong_is_told() -> None:
    text = report.markdown(FACTS, results(), Costs())  # type: ignore[arg-type]
    assert "| broken | broken 1 | as it comes | **not counted**: Rome |" in text
    assert "- decode, broken: it \\| ended" in text
    assert "- server-128, swift: 3 requests failed" in text
    assert "40.0 GB/s read, 400 GFLOP/s in bfloat16" in text


def test_plots(tmp_path: Any) -> None:
    made = results()
    for name in ("pieria", "swift"):
        made.samples["server-128"][name] |= {"ttft": [1.0], "itl": [2.0]}
    report.plot(made, tmp_path, "a title")
    assert "<svg" in (tmp_path / "ratios.svg").read_text()
    assert "<svg" in (tmp_path / "server.svg").read_text()


@pytest.mark.parametrize("name", work.NAMES)
def test_works_have_the_tokens_that_they_say(name: str) -> None:
    [found] = [each for each in work.WORKS if each.name == name]
    prompts = found.prompts(1000, 0)
    assert {len(prompt) for prompt in prompts} == {found.shared + found.own}
    assert len(prompts) == found.requests
    assert len({tuple(prompt[: found.shared]) for prompt in prompts}) == 1
    assert len({tuple(prompt) for prompt in prompts}) == found.requests
    assert prompts != found.prompts(1000, 1)
    assert prompts == found.prompts(1000, 0)
