"""The page is whole: its charts are JSON, its numbers the report's, and it loads nothing."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from plotly import graph_objects as go

from pieria.plan.charts import charts
from pieria.plan.page import page
from pieria.plan.serve_report import ServeReport

EMPTY = {"meta", "link", "img", "br"}


class Reader(HTMLParser):
    """Collects text, addresses and figures, and checks that elements end in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.addresses: list[str] = []
        self.ids: set[str] = set()
        self.figures: dict[str, Any] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "action")]
        if found.get("id"):
            self.ids.add(str(found["id"]))
        if tag not in EMPTY:
            self.open.append((tag, found))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        tag, found = self.open[-1] if self.open else ("", {})
        if tag == "script" and found.get("class") == "figure":
            self.figures[str(found["data-chart"])] = json.loads(data)
        elif tag not in ("script", "style"):
            self.text.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert not reader.open
    return reader


@pytest.fixture(scope="module")
def made(searched: ServeReport) -> str:
    return page(searched)


def test_figures_are_those_of_the_charts(searched: ServeReport, made: str) -> None:
    reader = read(made)
    wanted = charts(searched)
    assert list(reader.figures) == [f"chart-{chart.key}" for chart in wanted]
    assert set(reader.figures) <= reader.ids
    for chart in wanted:
        figure = go.Figure(reader.figures[f"chart-{chart.key}"])
        assert figure.to_plotly_json() == go.Figure(chart.figure.to_dict()).to_plotly_json()


def test_numbers_are_those_of_the_report(searched: ServeReport, made: str) -> None:
    text = " ".join(" ".join(read(made).text).split())
    summary = searched.evaluated[0].summary
    assert f"{summary.answer_tokens_per_second:,.0f}" in text
    for one in searched.assumptions:
        assert one.what in text and " ".join(one.source.split()) in text
    for row in searched.errors:
        if row.median is not None:
            assert f"{row.median:.1%}" in text
    for step in searched.detail.steps:
        assert f"{1e3 * step.explanation.seconds:.3f} ms" in text
    assert "Predicted by Pieria" in text and "inferred" in text


def test_it_loads_nothing(made: str) -> None:
    reader = read(made)
    assert all(address.startswith("#") for address in reader.addresses)
    assert {address[1:] for address in reader.addresses} <= reader.ids
    assert "default-src 'none'" in made
    style = made.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style and "@import" not in style


def test_a_name_cannot_be_more_than_text(searched: ServeReport) -> None:
    hostile = "</script><script>alert(1)</script>"
    text = page(replace(searched, model=hostile, workload=hostile))
    assert hostile not in text
    assert re.search(r"&lt;/script&gt;&lt;script&gt;alert", text)
    read(text)
