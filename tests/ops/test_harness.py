"""Each check of the harness catches the mistake it is there for, and passes what is right."""

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pieria.ops import Backward, Case, Cost, Impl, Inputs, Op, kv_write, nbytes
from tests.ops.harness import (
    Guards,
    Subject,
    assert_close,
    case_of,
    check_flops,
    check_forward,
    check_gradient,
    check_gradient_formula,
    check_rows,
    check_saved,
    tolerance,
)


def product(x_TI: Tensor, weight_OI: Tensor) -> Tensor:
    """The matrix product, an op small enough to see through."""
    return x_TI @ weight_OI.T


def made() -> Op[..., Any]:
    """The op with everything stated as it is; not in the registry."""
    op: Op[..., Any] = Op(product)

    @op.shapes
    def _(x_TI: Tensor, weight_OI: Tensor) -> Tensor:
        return x_TI.new_empty(len(x_TI), len(weight_OI))

    @op.cost
    def _(out: Tensor, x_TI: Tensor, weight_OI: Tensor) -> Cost:
        return Cost(2 * out.numel() * x_TI.shape[1], nbytes(out, x_TI, weight_OI))

    @op.backward
    def _(out: Tensor, x_TI: Tensor, weight_OI: Tensor) -> Backward:
        return Backward(Cost(4 * out.numel() * x_TI.shape[1]), (x_TI, weight_OI))

    @op.row
    def _(i: int, x_TI: Tensor, weight_OI: Tensor) -> tuple[Tensor, Tensor]:
        return x_TI[i : i + 1], weight_OI

    @op.cases
    def _(make: Inputs) -> Iterator[Case]:
        yield Case("only", (make.normal(6, 5), make.normal(4, 5)), reduction=5)

    return op


def subject(function: Callable[..., Any], op: Op[..., Any] | None = None) -> Subject:
    return Subject(op or made(), Impl("mutant", function, lambda *a, **k: True, True, True))


def only(dtype: torch.dtype = torch.float32) -> Case:
    return case_of(made(), "only", dtype)


def one_value_off(x_TI: Tensor, weight_OI: Tensor) -> Tensor:
    out = product(x_TI, weight_OI)
    out[2, 1] *= 1.001
    return out


def not_a_number(x_TI: Tensor, weight_OI: Tensor) -> Tensor:
    out = product(x_TI, weight_OI)
    out[5, 3] = torch.nan
    return out


def last_value_unwritten(x_TI: Tensor, weight_OI: Tensor) -> Tensor:
    out = torch.empty(len(x_TI), len(weight_OI), dtype=x_TI.dtype)
    out.view(-1)[:-1] = product(x_TI, weight_OI).view(-1)[:-1]
    return out


def one_byte_after(x_TI: Tensor, weight_OI: Tensor) -> Tensor:
    out = torch.empty(len(x_TI), len(weight_OI), dtype=x_TI.dtype)
    out.copy_(product(x_TI, weight_OI))
    ctypes.memset(out.data_ptr() + out.numel() * out.element_size(), 0, 1)
    return out


def one_byte_before_an_argument(x_TI: Tensor, weight_OI: Tensor) -> Tensor:
    ctypes.memset(weight_OI.data_ptr() - 1, 0, 1)
    return product(x_TI, weight_OI)


def argument_changed(x_TI: Tensor, weight_OI: Tensor) -> Tensor:
    out = product(x_TI, weight_OI)
    weight_OI.neg_()
    return out


def other_shape(x_TI: Tensor, weight_OI: Tensor) -> Tensor:
    return product(x_TI, weight_OI)[None]


def other_dtype(x_TI: Tensor, weight_OI: Tensor) -> Tensor:
    return product(x_TI, weight_OI).double()


def two_outputs(x_TI: Tensor, weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    return product(x_TI, weight_OI), x_TI


def summed_in_bfloat16(x_TI: Tensor, weight_OI: Tensor) -> Tensor:
    return product(x_TI.bfloat16(), weight_OI.bfloat16()).float()


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (one_value_off, "1 of 24 values are off"),
        (not_a_number, "1 of 24 values are off"),
        (last_value_unwritten, "1 of 24 values are off"),
        (one_byte_after, "1 bytes beside"),
        (one_byte_before_an_argument, "1 bytes beside"),
        (argument_changed, "argument weight_OI was changed"),
        (other_shape, "stated"),
        (other_dtype, "stated"),
        (two_outputs, "2 outputs instead of 1"),
        (summed_in_bfloat16, "values are off"),
    ],
)
def test_a_wrong_forward_pass_is_caught(function: Callable[..., Any], complaint: str) -> None:
    check_forward(subject(product), only())
    with pytest.raises(AssertionError, match=complaint):
        check_forward(subject(function), only())


def test_a_wrong_statement_of_shapes_is_caught() -> None:
    op = made()
    op.shapes(lambda x_TI, weight_OI: x_TI.new_empty(len(weight_OI), len(x_TI)))
    with pytest.raises(AssertionError, match="stated"):
        check_forward(subject(product, op), only())


def test_a_write_beside_the_slots_is_caught() -> None:
    """In a cache an overrun lands in another request's page rather than in a guard band."""

    def next_slot_too(
        k_cache: Tensor, v_cache: Tensor, k: Tensor, v: Tensor, slots: Tensor
    ) -> None:
        kv_write.reference(k_cache, v_cache, k, v, slots)
        free = next(s for s in range(k_cache.shape[0] * k_cache.shape[1]) if s not in slots)
        v_cache.flatten(0, 1)[free] = 0

    case = case_of(kv_write, "some", torch.float32)
    check_forward(subject(kv_write.reference, kv_write), case)
    with pytest.raises(AssertionError, match="written v_cache_PNGV"):
        check_forward(subject(next_slot_too, kv_write), case)


class Halved(torch.autograd.Function):
    """The right product with half of the gradient of x."""

    @staticmethod
    def forward(ctx: Any, x_TI: Tensor, weight_OI: Tensor) -> Tensor:
        ctx.save_for_backward(x_TI, weight_OI)
        return product(x_TI, weight_OI)

    @staticmethod
    def backward(ctx: Any, grad_TO: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        x_TI, weight_OI = ctx.saved_tensors
        return grad_TO @ weight_OI / 2, grad_TO.T @ x_TI


def test_a_wrong_gradient_is_caught() -> None:
    check_gradient(subject(product), only())
    check_forward(subject(Halved.apply), only())
    with pytest.raises(AssertionError, match="gradient of x_TI"):
        check_gradient(subject(Halved.apply), only())


def test_a_reference_with_a_wrong_gradient_is_caught() -> None:
    def halved(x_TI: Tensor, weight_OI: Tensor) -> Tensor:
        return Halved.apply(x_TI, weight_OI)  # type: ignore[no-any-return]

    check_gradient_formula(made(), only())
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        check_gradient_formula(Op(halved), only())


def statement(**wrong: Any) -> Op[..., Any]:
    """The op with another `Backward`."""
    op = made()
    right = op._backward
    assert right is not None
    op.backward(lambda *arguments: replace(right(*arguments), **wrong))
    return op


def test_wrong_bytes_kept_for_backward_are_caught() -> None:
    check_saved(made(), only())
    with pytest.raises(AssertionError, match="extra_bytes=4, autograd keeps 0"):
        check_saved(statement(extra_bytes=4), only())
    with pytest.raises(AssertionError, match="autograd keeps"):
        check_saved(statement(saved=()), only())
    with pytest.raises(AssertionError, match="neither"):
        check_saved(statement(saved=(torch.ones(1),)), only())


@pytest.mark.parametrize("exact", [True, False])
def test_wrong_flops_are_caught(exact: bool) -> None:
    check_flops(made(), only(), exact)
    op = made()
    op.cost(lambda out, x_TI, weight_OI: Cost(flops=2 * out.numel() * x_TI.shape[1] + 1))
    with pytest.raises(AssertionError, match="forward: stated 241 flops, counted 240"):
        check_flops(op, only(), exact)
    with pytest.raises(AssertionError, match="backward: stated 481 flops, counted 480"):
        check_flops(statement(cost=Cost(flops=481)), only(), exact)


def test_fewer_flops_pass_only_where_a_mask_hides_work() -> None:
    fewer = statement(cost=Cost(flops=479))
    check_flops(fewer, only(), exact=False)
    with pytest.raises(AssertionError, match="backward: stated 479"):
        check_flops(fewer, only(), exact=True)


def test_a_row_that_depends_on_the_batch_is_caught() -> None:
    def in_another_order(x_TI: Tensor, weight_OI: Tensor) -> Tensor:
        """As a library that splits the sum when there are few rows."""
        if len(x_TI) > 1:
            return x_TI @ weight_OI.T
        return x_TI[:, :2] @ weight_OI.T[:2] + x_TI[:, 2:] @ weight_OI.T[2:] + 1e-7

    def mixed(x_TI: Tensor, weight_OI: Tensor) -> Tensor:
        return product(x_TI, weight_OI) + x_TI.mean()

    def by_row(x_TI: Tensor, weight_OI: Tensor) -> Tensor:
        return (x_TI[:, None] * weight_OI).sum(-1)

    check_rows(subject(by_row), only(), exact=True)
    check_rows(subject(in_another_order), only(), exact=False)
    with pytest.raises(AssertionError, match="alone differs"):
        check_rows(subject(in_another_order), only(), exact=True)
    with pytest.raises(AssertionError, match="values are off"):
        check_rows(subject(mixed), only(), exact=False)


def test_guards_keep_views_and_strides() -> None:
    guards = Guards()
    x = torch.arange(24.0).view(4, 6).T[1:]
    copy = guards.guarded(x)
    assert torch.equal(copy, x)
    assert copy.stride() == x.stride()
    guards.check()
    with guards:
        empty = torch.empty(3, 5, dtype=torch.bfloat16)
    assert empty.isnan().all()
    empty.fill_(1)
    guards.check()


def test_the_tolerance_grows_with_the_dtype_and_the_sum() -> None:
    dtypes = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
    at_100 = [tolerance(dtype, 100) for dtype in dtypes]
    assert at_100 == sorted(at_100)
    assert tolerance(torch.float32, 10_000) > 5 * tolerance(torch.float32, 100)
    assert tolerance(torch.bfloat16, 100) < 0.05


def test_infinities_must_be_the_same() -> None:
    want = torch.tensor([1.0, torch.inf, -torch.inf])
    assert_close("x", want.clone(), want, 1)
    with pytest.raises(AssertionError, match="not finite in other places"):
        assert_close("x", torch.tensor([1.0, torch.inf, torch.inf]), want, 1)
    with pytest.raises(AssertionError, match="off"):
        assert_close("x", torch.tensor([torch.inf, torch.inf, -torch.inf]), want, 1)
