"""Prints the support table: the cases that each implementation passed, by dtype."""

from collections.abc import Callable

import pytest
import torch

from tests.ops.harness import DTYPES, Subject

TABLE = pytest.StashKey[dict[str, dict[torch.dtype, list[bool]]]]()


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[[Subject, torch.dtype, bool], None]:
    """Enter a case that passed, or that the implementation does not take."""
    table = request.config.stash.setdefault(TABLE, {})

    def enter(subject: Subject, dtype: torch.dtype, supported: bool) -> None:
        table.setdefault(str(subject), {}).setdefault(dtype, []).append(supported)

    return enter


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    table = terminalreporter.config.stash.get(TABLE, {})
    if not table:
        return
    terminalreporter.section("op support: cases passed of cases taken or declined")
    names = [str(dtype).removeprefix("torch.") for dtype in DTYPES]
    terminalreporter.write_line(f"{'':32}" + "".join(f"{name:>10}" for name in names))
    for subject, by_dtype in table.items():
        cells = [by_dtype.get(dtype, []) for dtype in DTYPES]
        text = "".join(f"{f'{sum(c)}/{len(c)}' if c else '-':>10}" for c in cells)
        terminalreporter.write_line(f"{subject:32}{text}")
