"""Dispatch, tracing and the meta device, on a small op and on the real backends."""

import importlib
from collections.abc import Callable, Iterator
from itertools import takewhile
from typing import Any

import pytest
import torch
from torch import Tensor

import pieria.ops
from pieria import ops
from pieria.ops import REFERENCE, REGISTRY, Case, Cost, Draws, Impl, Inputs, Op
from pieria.parallel.mesh import Group

contract = importlib.import_module("pieria.ops.op")


@pytest.fixture(autouse=True)
def nothing_active() -> Iterator[None]:
    ops.use()
    yield
    ops.use()


def scaled(x: Tensor, factor: float = 2.0, *, add: Tensor | None = None) -> Tensor:
    """x times a factor, the reference of the small op."""
    return x * factor if add is None else x * factor + add


def small() -> Op[..., Tensor]:
    op: Op[..., Tensor] = Op(scaled)
    op.shapes(lambda x, factor=2.0, add=None: torch.empty_like(x))
    op.cost(lambda out, x, factor=2.0, add=None: Cost(flops=x.numel(), bytes=8 * x.numel()))
    return op


def activate(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(contract, "_active", {"cpu": names})


def impl(
    backend: str,
    function: Callable[..., Tensor],
    supports: Callable[..., bool] = lambda *a, **k: True,
    differentiable: bool = False,
) -> Impl:
    return Impl(backend, function, supports, differentiable, False)


def backend_of(op: Op[..., Any], *args: Any, **kwargs: Any) -> str:
    with ops.trace() as calls:
        op(*args, **kwargs)
    return calls[0].backend


def test_without_a_backend_the_reference_runs() -> None:
    assert small()(torch.ones(2), 3.0).tolist() == [3.0, 3.0]
    assert backend_of(small(), torch.ones(2)) == REFERENCE


def test_the_first_active_implementation_that_supports_the_arguments_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    op = small()
    op.implementations["slow"] = [impl("slow", lambda x, *a, **k: x + 1)]
    op.implementations["fast"] = [
        impl("fast", lambda x, *a, **k: x + 2, lambda x, *a, **k: x.numel() > 4),
        impl("fast", lambda x, *a, **k: x + 3, lambda x, *a, **k: x.numel() > 2),
    ]
    assert op(torch.zeros(1)).item() == 0
    activate(monkeypatch, "fast", "slow")
    assert [op(torch.zeros(n))[0].item() for n in (5, 3, 1)] == [2, 3, 1]
    activate(monkeypatch, "slow", "fast")
    assert op(torch.zeros(5))[0].item() == 1
    assert backend_of(op, torch.zeros(5)) == "slow"
    found = op.implementation("fast", torch.zeros(3))
    assert found is op.implementations["fast"][1]
    assert op.implementation("fast", torch.zeros(1)) is None
    assert op.implementation("nowhere", torch.zeros(1)) is None


def test_a_wanted_gradient_passes_by_what_is_not_differentiable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    op = small()
    op.implementations["fast"] = [impl("fast", lambda x, *a, **k: x + 1)]
    activate(monkeypatch, "fast")
    leaf = torch.ones(2, requires_grad=True)
    assert backend_of(op, torch.ones(2)) == "fast"
    assert backend_of(op, leaf) == REFERENCE
    assert backend_of(op, torch.ones(2), add=leaf) == REFERENCE
    with torch.no_grad():
        assert backend_of(op, leaf) == "fast"
    op.implementations["fast"] = [impl("fast", lambda x, *a, **k: x + 1, differentiable=True)]
    assert backend_of(op, leaf) == "fast"


def test_a_trace_holds_calls_in_order_with_their_costs() -> None:
    op = small()
    x = torch.ones(3)
    with ops.trace() as calls:
        y = op(x, factor=4.0)
        op(y)
        with ops.trace() as inner:
            op(x)
    op(x)
    assert [call.arguments for call in calls] == [(x,), (y,)]
    assert calls[0].keywords == {"factor": 4.0}
    assert calls[0].out is y
    assert calls[0].cost == Cost(flops=3, bytes=24)
    assert len(inner) == 1
    assert calls[0].cost + calls[1].cost == Cost(flops=6, bytes=48)


def test_on_the_meta_device_no_body_runs() -> None:
    def body(x: Tensor) -> Tensor:
        raise AssertionError("ran")

    op: Op[..., Tensor] = Op(body)
    op.shapes(lambda x: x.new_empty(7))
    with ops.trace() as calls:
        out = op(torch.empty(3, device="meta"))
    assert (out.shape, out.device.type, calls[0].backend) == ((7,), "meta", "meta")


def test_a_call_without_a_tensor_is_refused() -> None:
    with pytest.raises(TypeError, match="positional tensor"):
        small()(3.0)


def test_an_unknown_backend_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"'warp'; there are: .*torch"):
        ops.load("warp")
    ops.use("torch")
    with pytest.raises(ValueError, match="'warp'"):
        ops.use("torch", "warp")
    x, weight = torch.ones(2, 4), torch.ones(4)
    assert backend_of(ops.rms_norm, x, weight, 1e-6) == "torch", "a failed use changed something"


def test_a_backend_is_used_for_its_devices_only_while_active() -> None:
    x, weight = torch.ones(2, 4), torch.ones(4)
    assert backend_of(ops.rms_norm, x, weight, 1e-6) == REFERENCE
    assert "cpu" in ops.load("torch")
    assert backend_of(ops.rms_norm, x, weight, 1e-6) == REFERENCE
    ops.use("torch")
    assert backend_of(ops.rms_norm, x, weight, 1e-6) == "torch"
    assert backend_of(ops.rms_norm, x, weight, 1e-6, True) == REFERENCE
    assert backend_of(ops.rms_norm, x.to("meta"), weight.to("meta"), 1e-6) == "meta"


def test_two_ops_of_one_name_are_refused() -> None:
    with pytest.raises(AssertionError, match="two ops are named linear"):

        @contract.op
        def linear(x: Tensor) -> Tensor:
            return x


def test_every_op_is_public_and_documented() -> None:
    for name, op in REGISTRY.items():
        assert getattr(pieria.ops, name) is op
        assert op.__doc__
        assert list(op.cases_of(Inputs(torch.float32, device="meta")))


def test_every_file_with_a_kernel_is_named_after_an_op() -> None:
    for backend in ops.backends():
        ops.load(backend)
    for op in REGISTRY.values():
        for impl in (impl for impls in op.implementations.values() for impl in impls):
            assert impl.function.__module__.split(".")[-1] in REGISTRY


def test_inputs_are_the_same_every_time_and_have_no_data_on_meta() -> None:
    a, b = (Inputs(torch.bfloat16, seed=3) for _ in range(2))
    assert torch.equal(a.normal(2, 3), b.normal(2, 3))
    assert torch.equal(a.integers(0, 9, 4), b.integers(0, 9, 4))
    assert torch.equal(a.permutation(5), b.permutation(5))
    assert a.normal(1).dtype == torch.bfloat16
    assert sorted(a.permutation(5).tolist()) == list(range(5))
    meta = Inputs(torch.float16, device="meta")
    assert {
        x.device.type for x in (meta.normal(2), meta.integers(0, 2, 3), meta.tensor([1.0]))
    } == {"meta"}


def test_cases_have_the_same_shapes_on_meta() -> None:
    for op in REGISTRY.values():
        real = takewhile(lambda c: not c.bench, op.cases_of(Inputs(torch.float32)))
        meta = list(op.cases_of(Inputs(torch.float32, device="meta")))
        small = [c for c in meta if not c.bench]
        assert [shapes(c) for c in real] == [shapes(c) for c in small]
        assert meta[: len(small)] == small, "cases for timing must come last"
        assert len({c.name for c in meta}) == len(meta)


def shapes(case: Case) -> Any:
    return case.name, ops.map_tensors(
        lambda x: (tuple(x.shape), x.dtype),  # type: ignore[arg-type, return-value]
        (case.arguments, case.keywords),
    )


def test_map_tensors_reaches_into_tuples_and_dataclasses() -> None:
    draws = Draws(torch.ones(2), bias=(torch.ones(1), torch.ones(1), torch.ones(1)))
    found = ops.map_tensors(lambda x: x + 1, {"a": (3, draws), "b": Group("tp", (0, 1), 1)})
    assert found["a"][0] == 3
    assert found["a"][1].keys_R.tolist() == [2.0, 2.0]
    assert [x.item() for x in found["a"][1].bias] == [2.0, 2.0, 2.0]
    assert found["b"] == Group("tp", (0, 1), 1)


def test_nbytes_and_widen() -> None:
    x = torch.ones(3, 4, dtype=torch.bfloat16)
    assert ops.nbytes(x, None, x.T[:, :1]) == 24 + 8
    assert ops.widen(x).dtype == torch.float32
    assert ops.widen(x.half()).dtype == torch.float32
    assert ops.widen(x.double()).dtype == torch.float64
