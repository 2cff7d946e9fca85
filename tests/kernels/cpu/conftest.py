"""A kernel library for each instruction set that this processor has."""

from collections.abc import Iterator

import pytest

from pieria.kernels.cpu import native


@pytest.fixture(params=native.available())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Kernels of this instruction set are called inside, the best one's after."""
    native.use(request.param)
    yield request.param
    native.use(native.available()[0])
