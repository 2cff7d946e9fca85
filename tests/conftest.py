"""What every test may use: one compute thread, and the real model, fetched once."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pieria import ops
from pieria.models.pull import pull
from tests import support

OUTCOMES = pytest.StashKey[dict[str, str]]()


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def references_again() -> Iterator[None]:
    """What a module activated is not active in the next."""
    yield
    ops.use()


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as GGUF, from the package that carries it."""
    return pull("smollm2-135m")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--support", type=Path, help="write the table of what is supported here")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[OUTCOMES] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> object:
    report = yield
    if report.when == "call" or report.outcome != "passed":
        item.config.stash[OUTCOMES][item.nodeid] = report.outcome
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("--support")
    if path is not None:
        support.write(path, session.config.stash[OUTCOMES])
