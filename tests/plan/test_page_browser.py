"""The page in a browser: it draws every chart, loads nothing, and no label covers another."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pieria.plan.charts import charts
from pieria.plan.page import page
from pieria.plan.serve_report import ServeReport

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")

OVERLAPS = """
() => {
  const found = [];
  const meet = (a, b) => a.left < b.right - 1 && b.left < a.right - 1
      && a.top < b.bottom - 1 && b.top < a.bottom - 1;
  for (const chart of document.querySelectorAll(".chart")) {
    const boxes = [];
    for (const one of chart.querySelectorAll(".xtick text, .ytick text, .xtitle, .ytitle, .legend"))
      boxes.push([one.textContent.slice(0, 30), one.getBoundingClientRect()]);
    const outside = chart.getBoundingClientRect();
    for (const [text, box] of boxes)
      if (box.width && (box.left < outside.left - 1 || box.right > outside.right + 1
          || box.top < outside.top - 1 || box.bottom > outside.bottom + 1))
        found.push(`${chart.id}: "${text}" is cut`);
    for (let i = 0; i < boxes.length; i++)
      for (let j = i + 1; j < boxes.length; j++)
        if (boxes[i][1].width && boxes[j][1].width && meet(boxes[i][1], boxes[j][1]))
          found.push(`${chart.id}: "${boxes[i][0]}" covers "${boxes[j][0]}"`);
  }
  return found;
}
"""


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, NAMES)), None)
    assert path, f"there is none of {', '.join(NAMES)}"
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--disable-gpu"])
        yield found
        found.close()


@pytest.fixture(scope="module", params=["one way", "a search"])
def file(
    request: pytest.FixtureRequest,
    report: ServeReport,
    searched: ServeReport,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[ServeReport, Path]:
    found = report if request.param == "one way" else searched
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page(found), encoding="utf-8")
    return found, path


@pytest.mark.parametrize("width", [1280, 800, 360])
def test_a_page(
    browser: "Browser", file: tuple[ServeReport, Path], width: int, tmp_path: Path
) -> None:
    report, path = file
    shown = browser.new_page(viewport={"width": width, "height": 900})
    said: list[str] = []
    asked: list[str] = []
    shown.on("console", lambda message: said.append(message.text))
    shown.on("pageerror", lambda error: said.append(str(error)))
    shown.on("request", lambda request: asked.append(request.url))
    shown.goto(path.as_uri(), timeout=120_000)
    last = charts(report)[-1].key
    shown.wait_for_selector(f"#chart-{last} .main-svg .xaxislayer-above", state="attached")
    assert said == []
    assert asked == [path.as_uri()]
    for chart in charts(report):
        assert drawn(shown, chart.key) >= 1, chart.key
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    assert shown.evaluate(OVERLAPS) == []
    picture = tmp_path / "page.png"
    shown.screenshot(path=picture, full_page=True, timeout=120_000)
    assert picture.stat().st_size > 100_000
    shown.close()


def drawn(shown: Any, key: str) -> int:
    """How many marks a chart has."""
    found: int = shown.evaluate(
        "key => document.querySelectorAll(`#chart-${key} .trace path`).length", key
    )
    return found
