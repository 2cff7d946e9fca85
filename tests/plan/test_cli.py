"""`pieria plan` as a user meets it."""

import json
from pathlib import Path

import pytest

from pieria import cli

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_a_design_that_meets_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "check", str(EXAMPLES / "oisa_128.yaml")]) == 0
    printed = capsys.readouterr().out
    for word in (
        "OISA cabinet of 128 cards",
        "bandwidth of a card, 2.0",
        "not public",
        "51.2 Tb/s",
    ):
        assert word in printed
    assert "not met" not in printed


def test_a_design_that_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "check", str(EXAMPLES / "node_8.yaml"), "--json"]) == 1
    lines = json.loads(capsys.readouterr().out)
    assert {line["verdict"] for line in lines} == {"met", "not met", "not public", "not stated"}
    assert lines[0] == {
        "subject": "cards in a cabinet",
        "asked": "128 in one, 256 in two",
        "found": "8",
        "verdict": "not met",
        "source": lines[0]["source"],
    }


def test_a_design_with_a_misspelt_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "design.yaml"
    path.write_text((EXAMPLES / "node_8.yaml").read_text().replace("\nhops:", "\nhop:"))
    assert cli.main(["plan", "check", str(path)]) == 2
    told = capsys.readouterr().err
    assert f"{path}, line 9: unknown key hop; did you mean hops?" in told
    assert cli.main(["plan", "check", str(tmp_path / "none.yaml")]) == 1
    assert "none.yaml" in capsys.readouterr().err
