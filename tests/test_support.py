"""The table of what is supported says yes only where tests say so."""

from tests.support import TABLES, render

BERT = "tests/models/test_bert.py::test_hidden_states_are_those_of_transformers"


def row(outcomes: dict[str, str]) -> str:
    return next(line for line in render(outcomes).splitlines() if line.startswith("| BERT"))


def test_a_cell_is_what_its_tests_say() -> None:
    assert row({f"{BERT}[a]": "passed", f"{BERT}[b]": "passed"}).startswith("| BERT | yes |")
    assert row({f"{BERT}[a]": "passed", f"{BERT}[b]": "failed"}).startswith("| BERT | no |")
    assert row({f"{BERT}[a]": "passed", f"{BERT}[b]": "skipped"}).startswith("| BERT | no |")
    assert row({}).startswith("| BERT | no |")


def test_other_words_stay() -> None:
    said = [line for line in render({}).splitlines() if line.startswith("| JIUTIAN-139MoE")]
    assert said == ["| JIUTIAN-139MoE, against a script | no | no | no GGUF form |"]


def test_every_row_fills_its_table() -> None:
    for table in TABLES:
        assert all(len(cells) == len(table.columns) for cells in table.rows.values())
