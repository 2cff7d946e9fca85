"""Reading published rows: names, layouts, and lines that are not rows."""

from pathlib import Path

import pytest

from pieria.plan import presets, published
from pieria.plan.published import COLUMNS, Layout, Row, Wide

LINE = "inference,m,h100,8,TP8,fp8,conc 64,1024,128,tpot,12.5,ms,somewhere"


def write(folder: Path, *lines: str, header: str = ",".join(COLUMNS)) -> Path:
    path = folder / "rows.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def row(**changes: object) -> Row:
    fields: dict[str, object] = {
        **dict.fromkeys(("kind", "model", "hardware", "precision", "unit", "source"), ""),
        **{"n_gpus": 8, "parallelism": "", "batch": "", "metric": ""},
        **{"seq_in": None, "seq_out": None, "value": 1.0},
    }
    return Row(**{**fields, **changes})  # type: ignore[arg-type]


def test_row_is_read_as_written(tmp_path: Path) -> None:
    (found,) = published.rows(write(tmp_path, LINE))
    assert (found.model, found.n_gpus, found.seq_in, found.value) == ("m", 8, 1024, 12.5)
    assert published.users(found.batch) == 64


def test_what_is_no_count_is_none(tmp_path: Path) -> None:
    (found,) = published.rows(write(tmp_path, LINE.replace(",8,", ",undisclosed,")))
    assert found.n_gpus is None


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (LINE.replace("12.5", "fast"), r"line 3: value='fast' is not a number"),
        (LINE.replace("12.5", "nan"), r"line 3: value=nan must be finite"),
        (LINE.rpartition(",")[0], r"line 3 must have 13 fields"),
        (f"{LINE},more", r"line 3 must have 13 fields"),
    ],
)
def test_bad_line_is_named(tmp_path: Path, line: str, error: str) -> None:
    path = write(tmp_path, LINE, line)
    with pytest.raises(ValueError, match=error):
        list(published.rows(path))


def test_missing_column_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, header="kind,model")
    with pytest.raises(ValueError, match="has no column hardware"):
        list(published.rows(path))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("TP8", Layout(8)),
        ("TP8 EP8", Layout(8, 1, 1, 1, 8)),
        ("TP2 PP1 attnDP4 moeTP1 moeEP8 sglang 0.5", Layout(2, 1, 4, 1, 8)),
        ("TP1 aDP8 mTP1 mEP8", Layout(1, 1, 8, 1, 8)),
        ("TP4 PP2 attnDP moeTP4 moeEP1", Layout(4, 2, 1, 4, 1)),
    ],
)
def test_layout(text: str, expected: Layout) -> None:
    assert published.layout(text) == expected


@pytest.mark.parametrize(
    "name",
    ["qwen3-32b", "Qwen/Qwen3-32B", "QWEN3 32b", "qwen3_32B-FP8", "Qwen/Qwen3-32B-Instruct-AWQ"],
)
def test_names_match_without_case_organisation_and_punctuation(name: str) -> None:
    assert presets.preset(name).names[0] == "qwen3-32b"


def test_name_that_is_close_is_not_taken() -> None:
    with pytest.raises(ValueError, match=r"no preset is called 'Qwen/Qwen3-33B'"):
        presets.preset("Qwen/Qwen3-33B")


def test_engine_is_found_wherever_it_is_named() -> None:
    assert published.engine(row(source="NVIDIA/TensorRT-LLM docs")) == "trtllm"
    assert published.engine(row(parallelism="TP8 SGLang 0.5.1")) == "sglang"
    assert published.engine(row()) == ""


WIDE_ROW = {
    "metric": "output_tokens_per_s_per_node",
    "parallelism": "9 nodes EP72",
    "batch": "256/GPU",
    "seq_in": 2000,
    "seq_out": 100,
}


def test_wide_rows() -> None:
    assert published.wide(row(**WIDE_ROW)) == Wide(72, False, 256, 2050, False)
    prompts = {
        **WIDE_ROW,
        "metric": "input_tokens_per_s_per_node",
        "batch": "16384 tok/GPU",
        "parallelism": "EP32 perfect EPLB",
        "seq_out": None,
    }
    assert published.wide(row(**prompts)) == Wide(32, True, 16384, 2000, True)
    assert published.wide(row(**{**WIDE_ROW, "batch": "13200"})) == Wide(
        72, False, 183, 2050, False
    )
    assert published.wide(row(**{**WIDE_ROW, "metric": "tpot"})) is None


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"batch": ""}, "how large"),
        ({"seq_in": None}, "how long"),
        ({"parallelism": "EP8 MTP"}, "several"),
    ],
)
def test_wide_row_that_leaves_something_out(change: dict[str, object], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        published.wide(row(**{**WIDE_ROW, **change}))
