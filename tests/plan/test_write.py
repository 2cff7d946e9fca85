"""Files that are asked for are written, and those that cannot be are refused before planning."""

import json
from pathlib import Path

import pytest

from pieria.plan.serve_options import OutputOptions
from pieria.plan.serve_report import ServeReport
from pieria.plan.write import write


def test_what_is_asked_for(report: ServeReport, tmp_path: Path) -> None:
    write(report, OutputOptions())
    assert not list(tmp_path.iterdir())
    paths = [tmp_path / name for name in ("r.json", "r.html", "r.trace")]
    write(report, OutputOptions(False, *paths))
    assert json.loads(paths[0].read_text())["cards"] == 2
    assert paths[1].read_text().startswith("<!DOCTYPE html>")
    assert json.loads(paths[2].read_text())["traceEvents"]


@pytest.mark.parametrize("name", ["json", "html", "trace"])
def test_a_file_in_no_folder(name: str, tmp_path: Path) -> None:
    path = tmp_path / "none" / "file"
    with pytest.raises(ValueError, match=f"{name}={path} must be a file: there is no folder"):
        OutputOptions(**{name: path})
    with pytest.raises(ValueError, match=f"{name}={tmp_path} must be a file: it is a folder"):
        OutputOptions(**{name: tmp_path})


def test_tables_and_pages_do_not_mix_on_standard_output() -> None:
    with pytest.raises(ValueError, match="html=- must be a file"):
        OutputOptions(html=Path("-"))
