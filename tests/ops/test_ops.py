"""Every op x implementation x case x dtype through every check of the harness."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch

from pieria.ops import REFERENCE, REGISTRY, Case, Inputs, Op, backends
from pieria.parallel.mesh import Group
from tests.ops.harness import (
    DTYPES,
    Subject,
    case_names,
    case_of,
    check_flops,
    check_forward,
    check_gradient,
    check_gradient_formula,
    check_rows,
    check_saved,
    subjects,
    tensors,
)

Record = Callable[[Subject, torch.dtype, bool], None]

SUBJECTS = subjects(tuple(backends()))
DIFFERENTIABLE = [op for op in REGISTRY.values() if op.differentiable]
SMALL = 100
"""Numbers in the arguments up to which a gradient is compared with differences."""
MATRIX_PRODUCTS = {
    "linear": "",
    "attention": "single tokens",
    "paged_attention": "single tokens",
    "experts": "",
    "head_linear": "",
    "latent_attention": "single tokens",
    "paged_latent_attention": "single tokens",
}
"""The ops that torch's counter sees, with the start of the names of cases that hide nothing."""


def grid(wanted: Callable[[Subject], bool]) -> list[Any]:
    return [
        pytest.param(subject, name, dtype, id=f"{subject}-{name}-{str(dtype)[6:]}")
        for subject in SUBJECTS
        if wanted(subject)
        for name in case_names(subject.op)
        for dtype in DTYPES
    ]


def op_cases(ops: list[Op[..., Any]]) -> list[Any]:
    return [pytest.param(op, name, id=f"{op.name}-{name}") for op in ops for name in case_names(op)]


def taken(subject: Subject, name: str, dtype: torch.dtype) -> Case:
    """The case, if the implementation takes it; else the test is skipped."""
    case = case_of(subject.op, name, dtype)
    if not subject.supports(case):
        pytest.skip(f"{subject} does not take it")
    return case


@pytest.mark.parametrize(("subject", "name", "dtype"), grid(lambda s: True))
def test_forward(subject: Subject, name: str, dtype: torch.dtype, record: Record) -> None:
    case = case_of(subject.op, name, dtype)
    supported = subject.supports(case)
    if supported:
        check_forward(subject, case)
    record(subject, dtype, supported)


@pytest.mark.parametrize(("subject", "name", "dtype"), grid(lambda s: s.impl.differentiable))
def test_gradient(subject: Subject, name: str, dtype: torch.dtype) -> None:
    check_gradient(subject, taken(subject, name, dtype))


@pytest.mark.parametrize(
    ("subject", "name", "dtype"),
    grid(lambda s: s.op.has_rows and s.impl.backend == REFERENCE),
)
def test_rows_of_the_reference(subject: Subject, name: str, dtype: torch.dtype) -> None:
    check_rows(subject, case_of(subject.op, name, dtype), exact=False)


@pytest.mark.parametrize(("subject", "name", "dtype"), grid(lambda s: s.impl.batch_invariant))
def test_batch_invariance(subject: Subject, name: str, dtype: torch.dtype) -> None:
    check_rows(subject, taken(subject, name, dtype), exact=True)


@pytest.mark.parametrize("subject", [s for s in SUBJECTS if s.impl.batch_invariant], ids=str)
def test_batch_invariance_at_the_sizes_of_a_model(subject: Subject) -> None:
    """Where a library may choose its algorithm by size."""
    names = [
        c.name
        for c in subject.op.cases_of(Inputs(torch.float32, device="meta"))
        if c.bench and max(x.numel() for x in tensors(c.arguments)) < 4_000_000
    ]
    assert names
    for name in names:
        case = case_of(subject.op, name, torch.float32)
        if subject.supports(case):
            check_rows(subject, case, exact=True)


@pytest.mark.parametrize(("op", "name"), op_cases(DIFFERENTIABLE))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_saved_for_backward(op: Op[..., Any], name: str, dtype: torch.dtype) -> None:
    check_saved(op, case_of(op, name, dtype))


@cache
def small_cases(op: Op[..., Any]) -> list[str]:
    meta = Inputs(torch.float64, device="meta")
    return [
        c.name for c in op.cases_of(meta) if sum(x.numel() for x in tensors(c.arguments)) <= SMALL
    ]


@pytest.mark.parametrize("op", DIFFERENTIABLE, ids=lambda op: op.name)
def test_gradient_formula(op: Op[..., Any]) -> None:
    assert small_cases(op), f"{op.name} has no case of at most {SMALL} numbers"
    for name in small_cases(op):
        check_gradient_formula(op, case_of(op, name, torch.float64))


@pytest.mark.parametrize(("op", "name"), op_cases([REGISTRY[n] for n in MATRIX_PRODUCTS]))
def test_flops(op: Op[..., Any], name: str) -> None:
    exact = name.startswith(MATRIX_PRODUCTS[op.name]) and "window" not in name
    check_flops(op, case_of(op, name, torch.float32), exact)


@pytest.mark.parametrize("op", REGISTRY.values(), ids=lambda op: op.name)
def test_costs_are_stated_from_shapes_alone(op: Op[..., Any]) -> None:
    for case in op.cases_of(Inputs(torch.float32, device="meta")):
        out = op.shapes_of(*case.arguments, **case.keywords)
        cost = op.cost_of(out, *case.arguments, **case.keywords)
        assert min(cost.flops, cost.bytes, cost.sent) >= 0
        alone = any(isinstance(a, Group) and a.size == 1 for a in case.arguments)
        assert cost.bytes > 0 or alone
        if op.differentiable:
            backward = op.backward_of(out, *case.arguments, **case.keywords)
            assert backward.cost.flops > 0
            assert backward.extra_bytes >= 0
