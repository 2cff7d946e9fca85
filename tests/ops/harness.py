"""The checks that every op passes, whoever implements it: each raises AssertionError with what is
wrong.

Knows the op contract. Knows no op and no backend; test_harness.py shows that each check can fail.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import sqrt
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from pieria.ops import REFERENCE, REGISTRY, Case, Impl, Inputs, Op, load, map_tensors

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
GUARD_BYTES = 256
CANARY = 0xFF
"""Every floating point number made of this byte is a NaN."""


@dataclass(frozen=True)
class Subject:
    """One implementation of one op on one device."""

    op: Op[..., Any]
    impl: Impl
    device: str = "cpu"

    def __str__(self) -> str:
        return f"{self.op.name}-{self.impl.backend}-{self.device}"

    def supports(self, case: Case) -> bool:
        case = packed(self, moved(case, self.device))
        return self.impl.supports(*case.arguments, **case.keywords)


def subjects(backends: tuple[str, ...]) -> list[Subject]:
    """References and implementations of these backends, on every device of theirs that is here."""
    devices = {name: [d for d in load(name) if available(d)] for name in backends}
    everywhere = sorted({"cpu", *(d for found in devices.values() for d in found)})
    made = []
    for op in REGISTRY.values():
        made += [Subject(op, reference(op), device) for device in everywhere]
        for name in backends:
            impls = op.implementations.get(name, ())
            made += [Subject(op, impl, device) for device in devices[name] for impl in impls]
    return made


def reference(op: Op[..., Any]) -> Impl:
    return Impl(REFERENCE, op.reference, lambda *a, **k: True, op.differentiable, False)


def available(device: str) -> bool:
    """Whether torch knows this device type and one is here."""
    module = getattr(torch, device, None)
    return module is not None and bool(module.is_available())


def case_names(op: Op[..., Any]) -> list[str]:
    """Of the cases that are not for timing only; no data is made."""
    return [c.name for c in op.cases_of(Inputs(torch.float32, device="meta")) if not c.bench]


def case_of(op: Op[..., Any], name: str, dtype: torch.dtype) -> Case:
    return next(c for c in op.cases_of(Inputs(dtype)) if c.name == name)


def moved(case: Case, target: str | torch.dtype) -> Case:
    """The case on another device, or with its floating point tensors in another dtype."""

    def move(x: Tensor) -> Tensor:
        return x.to(target) if isinstance(target, str) or x.is_floating_point() else x

    return copied(case, move)


def copied(case: Case, function: Callable[[Tensor], Tensor] = torch.clone) -> Case:
    arguments, keywords = map_tensors(function, (case.arguments, case.keywords))
    return Case(case.name, arguments, keywords, case.reduction, case.bench)


def packed(subject: Subject, case: Case) -> Case:
    """The case with its weights as the implementation takes them."""
    pack = subject.impl.pack
    if pack is None:
        return case

    def each(value: Any) -> Any:
        return tuple(map(each, value)) if isinstance(value, tuple) else pack(value) or value

    signature = inspect.signature(subject.op.reference)
    bound = signature.bind(*case.arguments, **case.keywords)
    for name in subject.op.weights:
        bound.arguments[name] = each(bound.arguments[name])
    return replace(case, arguments=bound.args, keywords=bound.kwargs)


def named(op: Op[..., Any], case: Case) -> dict[str, Any]:
    """The arguments by name."""
    return inspect.signature(op.reference).bind(*case.arguments, **case.keywords).arguments


def tensors(value: Any) -> list[Tensor]:
    found: list[Tensor] = []
    map_tensors(lambda x: found.append(x) or x, value)  # type: ignore[func-returns-value]
    return found


def tolerance(dtype: torch.dtype, reduction: int) -> float:
    """The relative error that a result in `dtype` may have whose longest sum has `reduction` terms.

    A few roundings to dtype, and a random walk of roundings in the dtype that ops accumulate in.
    """
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return 4 * torch.finfo(dtype).eps + 4 * sqrt(reduction) * torch.finfo(wide).eps


def typical(values: list[Tensor]) -> float:
    """The root mean square of all that is finite in them."""
    flat = torch.cat([v.detach().cpu().double().flatten() for v in values])
    flat = flat[flat.isfinite()]
    return flat.square().mean().sqrt().item() if flat.numel() else 0.0


def assert_close(
    what: str,
    got: Tensor,
    want: Tensor,
    reduction: int,
    size: float = 0.0,
    dtype: torch.dtype | None = None,
) -> None:
    """Integers are equal; floats differ by `tolerance` of their own size plus the typical one.

    size: what is typical, where that is more than in `want`. dtype: what was computed in, where
    that is narrower than `got`.
    """
    assert got.shape == want.shape, f"{what}: shape {tuple(got.shape)}, not {tuple(want.shape)}"
    if got.numel() == 0:
        return
    if not got.is_floating_point():
        assert torch.equal(got.cpu(), want.cpu()), f"{what}: {got} is not {want}"
        return
    got64, want64 = got.detach().cpu().double(), want.detach().cpu().double()
    finite = want64.isfinite()
    assert torch.equal(got64[~finite], want64[~finite]), f"{what}: not finite in other places"
    allowed = tolerance(dtype or got.dtype, reduction) * (
        want64.abs() + max(size, typical([want64]))
    )
    # A NaN is no smaller than anything, so it fails.
    wrong = finite & ~((got64 - want64).abs() <= allowed)
    if wrong.any():
        at = tuple(wrong.nonzero()[0].tolist())
        raise AssertionError(
            f"{what}: {int(wrong.sum())} of {wrong.numel()} values are off, such as {got64[at]}"
            f" at {at}, wanted {want64[at]} within {allowed[at]}"
        )


class Guards(TorchDispatchMode):
    """Puts what is allocated empty between guard bands, and fills it with NaN."""

    def __init__(self) -> None:
        super().__init__()
        self._buffers: list[tuple[Tensor, int]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        empties = torch.ops.aten
        if func.overloadpacket in (
            empties.empty,
            empties.empty_like,
            empties.empty_strided,
            empties.new_empty,
            empties.new_empty_strided,
        ):
            return self._between(out)
        return out

    def guarded(self, x: Tensor) -> Tensor:
        """A copy of x between guard bands."""
        return self._between(x).copy_(x)

    def check(self) -> None:
        for buffer, size in self._buffers:
            bands = torch.cat([buffer[:GUARD_BYTES], buffer[GUARD_BYTES + size :]])
            broken = (bands != CANARY).nonzero().flatten().tolist()
            assert not broken, f"{len(broken)} bytes beside a tensor of {size} bytes were written"

    def _between(self, x: Tensor) -> Tensor:
        size = x.untyped_storage().nbytes()
        whole = torch.full((size + 2 * GUARD_BYTES,), CANARY, dtype=torch.uint8, device=x.device)
        self._buffers.append((whole, size))
        inside = whole[GUARD_BYTES : GUARD_BYTES + size].view(x.dtype)
        return inside.as_strided(x.shape, x.stride(), inside.storage_offset() + x.storage_offset())


def check_forward(subject: Subject, case: Case) -> None:
    """Values against the float64 reference, shapes, and nothing else written inside or beside."""
    op = subject.op
    guards = Guards()
    before = moved(case, subject.device)
    given = copied(before, guards.guarded)
    called = packed(subject, given)
    with torch.no_grad(), guards:
        out = subject.impl.function(*called.arguments, **called.keywords)
    guards.check()
    wanted = copied(moved(case, torch.float64))
    with torch.no_grad():
        want = op.reference(*wanted.arguments, **wanted.keywords)
    got_all, want_all = tensors(out), tensors(want)
    assert len(got_all) == len(want_all), f"{len(got_all)} outputs instead of {len(want_all)}"
    check_shapes(op, case, out)
    for i, (got, expected) in enumerate(zip(got_all, want_all, strict=True)):
        assert_close(f"output {i}", got, expected, case.reduction)
    arguments, expected_arguments, old = (named(op, c) for c in (given, wanted, before))
    for name, value in arguments.items():
        pairs = zip(
            tensors(value), tensors(expected_arguments[name]), tensors(old[name]), strict=True
        )
        for now, expected, was in pairs:
            if name in op.writes:
                assert_close(f"written {name}", now, expected, case.reduction)
            else:
                assert same_bits(now, was), f"argument {name} was changed"


def check_shapes(op: Op[..., Any], case: Case, out: Any) -> None:
    """What the op says of its outputs on the meta device is what came out."""
    meta = moved(case, "meta")
    stated = op.shapes_of(*meta.arguments, **meta.keywords)
    for got, said in zip(tensors(out), tensors(stated), strict=True):
        assert said.device.type == "meta", "stated outputs are not on the arguments' device"
        assert (got.shape, got.dtype) == (said.shape, said.dtype), (
            f"stated {tuple(said.shape)} {said.dtype}, came {tuple(got.shape)} {got.dtype}"
        )


def same_bits(a: Tensor, b: Tensor) -> bool:
    a, b = (x.contiguous().flatten() for x in (a, b))
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(a.view(torch.uint8), b.view(torch.uint8))


@dataclass
class Pass:
    """One forward pass that autograd records."""

    out: list[Tensor]
    leaves: dict[str, Tensor]
    case: Case
    kept: list[Tensor] = field(default_factory=list)


def recorded(op: Op[..., Any], function: Callable[..., Any], case: Case) -> Pass:
    """Run it with a gradient wanted for every floating point argument that can have one."""
    fresh = copied(case)
    leaves = {
        f"{name}[{i}]" if isinstance(value, tuple) else name: x.requires_grad_()
        for name, value in named(op, fresh).items()
        if isinstance(value, Tensor | tuple) and name not in (*op.constants, *op.writes)
        for i, x in enumerate(tensors(value))
        if x.is_floating_point()
    }
    kept: list[Tensor] = []
    with saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):  # type: ignore[func-returns-value]
        out = function(*fresh.arguments, **fresh.keywords)
    return Pass(tensors(out), leaves, fresh, kept)


def gradients(op: Op[..., Any], function: Callable[..., Any], case: Case) -> dict[str, Tensor]:
    """Of the floating point outputs' product with fixed random numbers, in each argument."""
    made = recorded(op, function, case)
    out = [x for x in made.out if x.is_floating_point()]
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator).to(x) for x in out]
    found = torch.autograd.grad(out, list(made.leaves.values()), weights)
    return dict(zip(made.leaves, found, strict=True))


def check_gradient(subject: Subject, case: Case) -> None:
    """Gradients against those of the reference in float64.

    Where terms cancel in one argument's gradient, the errors are of the size of the others'.
    """
    given = recorded(subject.op, subject.op.reference, case).leaves
    got = gradients(subject.op, subject.impl.function, moved(case, subject.device))
    want = gradients(subject.op, subject.op.reference, moved(case, torch.float64))
    size = typical(list(want.values()))
    coarsest = max((x.dtype for x in got.values()), key=lambda dtype: torch.finfo(dtype).eps)
    for name, expected in want.items():
        assert got[name].dtype == given[name].dtype
        terms = max(case.reduction, *case.arguments[0].shape)
        assert_close(f"gradient of {name}", got[name], expected, terms, size, coarsest)


def check_gradient_formula(op: Op[..., Any], case: Case) -> None:
    """The reference's gradients against differences, in float64."""
    made = recorded(op, op.reference, moved(case, torch.float64))

    def function(*values: Tensor) -> Any:
        by_leaf = {id(x): v for x, v in zip(made.leaves.values(), values, strict=True)}
        arguments, keywords = map_tensors(
            lambda x: by_leaf.get(id(x), x), (made.case.arguments, made.case.keywords)
        )
        return op.reference(*arguments, **keywords)

    assert torch.autograd.gradcheck(function, tuple(made.leaves.values()))


def check_saved(op: Op[..., Any], case: Case) -> None:
    """What `Backward` says autograd keeps is what it keeps: arguments and outputs by name, the rest
    in bytes.
    """
    made = recorded(op, op.reference, case)
    given = tensors((made.case.arguments, made.case.keywords))
    known = {storage_of(x): x for x in (*given, *made.out)}
    found = {storage_of(x): x for x in made.kept}
    out = made.out[0] if len(made.out) == 1 else tuple(made.out)
    stated = op.backward_of(out, *made.case.arguments, **made.case.keywords)
    said = {storage_of(x) for x in stated.saved}
    assert said <= set(known), "Backward.saved has what is neither an argument nor an output"
    kept = {s for s in found if s in known}
    assert said == kept, (
        f"Backward.saved has {[tuple(known[s].shape) for s in said]},"
        f" autograd keeps {[tuple(known[s].shape) for s in kept]}"
    )
    extra = sum(x.untyped_storage().nbytes() for s, x in found.items() if s not in known)
    assert stated.extra_bytes == extra, f"extra_bytes={stated.extra_bytes}, autograd keeps {extra}"


def storage_of(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


def check_flops(op: Op[..., Any], case: Case, exact: bool) -> None:
    """Stated flops against torch's count of products: equal, or fewer where masks hide work."""
    counter = FlopCounterMode(display=False)
    with counter:
        made = recorded(op, op.reference, case)
    forward = counter.get_total_flops()
    out = made.out[0]
    stated = op.cost_of(out, *made.case.arguments, **made.case.keywords).flops
    assert stated == forward if exact else 0 < stated <= forward, (
        f"forward: stated {stated} flops, counted {forward}"
    )
    if op.differentiable:
        counter = FlopCounterMode(display=False)
        with counter:
            out.sum().backward()
        backward = counter.get_total_flops()
        stated = op.backward_of(out, *made.case.arguments, **made.case.keywords).cost.flops
        assert stated == backward if exact else 0 < stated <= backward, (
            f"backward: stated {stated} flops, counted {backward}"
        )


def check_rows(subject: Subject, case: Case, exact: bool) -> None:
    """Rows computed alone against the same rows in the batch: bit for bit where `exact`, else
    close.
    """
    op = subject.op
    case = packed(subject, moved(case, subject.device))
    with torch.no_grad():
        fresh = copied(case)
        whole = tensors(subject.impl.function(*fresh.arguments, **fresh.keywords))
        rows = whole[0].shape[0]
        for i in sorted({0, 1, rows // 2, rows - 1} & set(range(rows))):
            fresh = copied(case)
            arguments = op.row_of(i, *fresh.arguments, **fresh.keywords)
            alone = tensors(subject.impl.function(*arguments, **fresh.keywords))
            for got, want in zip(alone, whole, strict=True):
                if exact:
                    assert same_bits(got[-1], want[i]), f"row {i} alone differs from the batch"
                else:
                    assert_close(f"row {i}", got[-1], want[i].double(), case.reduction)


@contextmanager
def only(*backends: str) -> Iterator[None]:
    """These backends active inside, none after."""
    from pieria.ops import use

    use(*backends)
    try:
        yield
    finally:
        use()
