"""Every kernel through the checks of every op, for every instruction set of this processor."""

import pytest
import torch

from pieria.kernels.cpu import native
from pieria.ops import REGISTRY, load
from tests.ops.harness import DTYPES, Subject, case_names, case_of, check_forward, check_rows

load("cpu")
SUBJECTS = [
    Subject(op, impl) for op in REGISTRY.values() for impl in op.implementations.get("cpu", ())
]


def test_there_are_kernels_for_this_processor() -> None:
    assert native.available()
    assert native.available()[-1] == "portable"


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("subject", SUBJECTS, ids=str)
def test_values_and_rows(isa: str, subject: Subject, dtype: torch.dtype) -> None:
    taken = 0
    for name in case_names(subject.op):
        case = case_of(subject.op, name, dtype)
        if subject.supports(case):
            taken += 1
            check_forward(subject, case)
            if subject.op.has_rows:
                check_rows(subject, case, exact=subject.impl.batch_invariant)
    if dtype == torch.float32:
        assert taken, "a kernel takes none of its op's cases"
