"""The op contract: what an op means, what it costs, and who can do it faster.

Knows dispatch and tracing. Knows no op, backend or device by name; `use` finds backends by folder.

An op is one public function, its reference, plus what is registered on it:

    @op
    def rms_norm(x, weight, eps): ...  # the definition, on any torch device, in any float dtype
    @rms_norm.shapes                   # outputs from argument shapes: what the meta device runs
    @rms_norm.cost                     # Cost of the forward pass
    @rms_norm.backward                 # Backward: its cost and what autograd keeps for it
    @rms_norm.row                      # one row of the batch as a call of its own
    @rms_norm.cases                    # the inputs of test, gradient, speed and support

A call takes the first active `Impl` that supports its arguments, else the reference.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import update_wrapper
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor

from pieria.ops.weight import Weight

P = ParamSpec("P")
R = TypeVar("R")

REFERENCE = "reference"
"""The backend name under which an op's own body is reported."""


@dataclass(frozen=True)
class Cost:
    """What one call takes. Never seconds: those belong to a device.

    flops: floating point operations, a multiply-add counting as two.
    bytes: read from and written to device memory when every operand moves once.
    sent: bytes that each rank sends to others.
    """

    flops: int = 0
    bytes: int = 0
    sent: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.flops + other.flops, self.bytes + other.bytes, self.sent + other.sent)


@dataclass(frozen=True)
class Backward:
    """The backward pass of one call through the reference.

    saved: arguments or outputs that autograd keeps alive; a planner counts a tensor once however
    many calls keep it.
    extra_bytes: intermediates that autograd keeps besides those.
    """

    cost: Cost
    saved: tuple[Tensor, ...] = ()
    extra_bytes: int = 0


@dataclass(frozen=True)
class Impl:
    """One faster way to do an op on the devices of its backend.

    supports: whether it can take these arguments; asked at every call, so it must be cheap.
    differentiable: whether autograd runs through it; if not, calls that need a gradient pass it by.
    batch_invariant: a row's bits do not depend on which other rows are in the call (checked by the
    harness).
    pack: makes of a weight what the function takes in its place; None where it cannot.
    """

    backend: str
    function: Callable[..., Any]
    supports: Callable[..., bool]
    differentiable: bool
    batch_invariant: bool
    pack: Callable[[Tensor | Weight], Weight | None] | None = None


@dataclass(frozen=True)
class Case:
    """One input to an op, where its `Inputs` are; who uses it moves it.

    reduction: how many terms the longest sum in the op has (tolerances grow with it).
    bench: too large for tests, timed only; an op yields these last.
    """

    name: str
    arguments: tuple[Any, ...]
    keywords: dict[str, Any] = field(default_factory=dict)
    reduction: int = 1
    bench: bool = False


@dataclass(frozen=True)
class Call:
    """One traced use of an op. Holds its tensors; on the meta device they have no data."""

    op: "Op[..., Any]"
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    out: Any
    backend: str

    @property
    def cost(self) -> Cost:
        return self.op.cost_of(self.out, *self.arguments, **self.keywords)

    @property
    def backward(self) -> Backward:
        return self.op.backward_of(self.out, *self.arguments, **self.keywords)


class Op(Generic[P, R]):
    """A named definition and all that is registered on it; called like the function it wraps.

    writes: names of the arguments that a call changes in place; every other one is left as it was.
    constants: names of floating point arguments that no gradient flows to.
    weights: names of the arguments that may be a `Weight`, or several, instead of a tensor.
    """

    def __init__(self, reference: Callable[P, R]) -> None:
        self.name = reference.__name__
        self.reference = reference
        self.writes: tuple[str, ...] = ()
        self.constants: tuple[str, ...] = ()
        self.weights: tuple[str, ...] = ()
        self.implementations: dict[str, list[Impl]] = {}
        self._shapes: Callable[..., R] | None = None
        self._cost: Callable[..., Cost] | None = None
        self._backward: Callable[..., Backward] | None = None
        self._row: Callable[..., tuple[Any, ...]] | None = None
        self._cases: Callable[[Inputs], Iterator[Case]] | None = None
        update_wrapper(self, reference)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        device = _device(args)
        if device == "meta":
            out, backend = self.shapes_of(*args, **kwargs), "meta"
        else:
            impl = self._choose(device, args, kwargs)
            function = impl.function if impl else self.reference
            out, backend = function(*args, **kwargs), impl.backend if impl else REFERENCE
        calls = _calls.get()
        if calls is not None:
            calls.append(Call(self, args, kwargs, out, backend))
        return out

    def _choose(self, device: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Impl | None:
        for backend in _active.get(device, ()):
            impl = self.implementation(backend, *args, **kwargs)
            if impl is not None:
                return impl
        return None

    def implementation(self, backend: str, *args: Any, **kwargs: Any) -> Impl | None:
        """What a loaded backend, active or not, has for these arguments; None: nothing."""
        for impl in self.implementations.get(backend, ()):
            usable = impl.differentiable or not _wants_gradient((*args, *kwargs.values()))
            if usable and impl.supports(*args, **kwargs):
                return impl
        return None

    def implemented(self, device: str) -> bool:
        """Whether an active backend has something for this device type, for whatever arguments."""
        return any(self.implementations.get(backend) for backend in _active.get(device, ()))

    def shapes(self, function: Callable[..., R]) -> Callable[..., R]:
        """Register how to make empty outputs, on the arguments' device, from their shapes alone."""
        self._shapes = function
        return function

    def cost(self, function: Callable[..., Cost]) -> Callable[..., Cost]:
        """Register `(out, *arguments) -> Cost` of the forward pass."""
        self._cost = function
        return function

    def backward(self, function: Callable[..., Backward]) -> Callable[..., Backward]:
        """Register `(out, *arguments) -> Backward`. An op without one is not differentiable."""
        self._backward = function
        return function

    def row(self, function: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
        """Register `(i, *arguments) -> positional arguments` of a call that ends with row i.

        It holds nothing of the batch but what that row depends on. An op without one has no rows.
        """
        self._row = function
        return function

    def cases(
        self, function: Callable[["Inputs"], Iterator[Case]]
    ) -> Callable[["Inputs"], Iterator[Case]]:
        """Register the inputs that the harness and `bench ops` use."""
        self._cases = function
        return function

    def implement(
        self,
        *,
        supports: Callable[..., bool] = lambda *a, **k: True,
        differentiable: bool = False,
        batch_invariant: bool = False,
        pack: Callable[[Tensor | Weight], Weight | None] | None = None,
    ) -> Callable[[Callable[..., R]], Callable[..., R]]:
        """Register a faster way, of the backend whose folder `kernels/<backend>/` it is in."""

        def register(function: Callable[..., R]) -> Callable[..., R]:
            backend = function.__module__.split(".")[-2]
            impl = Impl(backend, function, supports, differentiable, batch_invariant, pack)
            self.implementations.setdefault(backend, []).append(impl)
            return function

        return register

    def pack(self, weight: Tensor | Weight) -> Tensor | Weight:
        """The weight as the fastest active implementation wants it; no gradient flows to that."""
        for backend in _active.get(weight.device.type, ()):
            for impl in self.implementations.get(backend, ()):
                packed = impl.pack(weight) if impl.pack else None
                if packed is not None:
                    return packed
        return weight

    @property
    def differentiable(self) -> bool:
        return self._backward is not None

    def shapes_of(self, *args: Any, **kwargs: Any) -> R:
        assert self._shapes is not None, f"op {self.name} states no output shapes"
        return self._shapes(*args, **kwargs)

    def cost_of(self, out: Any, *args: Any, **kwargs: Any) -> Cost:
        assert self._cost is not None, f"op {self.name} states no cost"
        return self._cost(out, *args, **kwargs)

    def backward_of(self, out: Any, *args: Any, **kwargs: Any) -> Backward:
        assert self._backward is not None, f"op {self.name} is not differentiable"
        return self._backward(out, *args, **kwargs)

    @property
    def has_rows(self) -> bool:
        return self._row is not None

    def row_of(self, index: int, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        assert self._row is not None, f"op {self.name} has no rows"
        return self._row(index, *args, **kwargs)

    def cases_of(self, inputs: "Inputs") -> Iterator[Case]:
        assert self._cases is not None, f"op {self.name} has no cases"
        return self._cases(inputs)


class Inputs:
    """Seeded test data in one dtype. On the meta device it lists cases without making data."""

    def __init__(self, dtype: torch.dtype, seed: int = 0, device: str = "cpu") -> None:
        self.dtype = dtype
        self.device = device
        self._generator = None if device == "meta" else torch.Generator(device).manual_seed(seed)

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        values = torch.randn(
            shape, generator=self._generator, dtype=torch.float64, device=self.device
        )
        return (values * scale).to(self.dtype)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Uniform in [low, high), int64."""
        return torch.randint(low, high, shape, generator=self._generator, device=self.device)

    def permutation(self, n: int) -> Tensor:
        """The numbers 0..n-1 in random order, int64."""
        return torch.randperm(n, generator=self._generator, device=self.device)

    def tensor(self, values: Any, dtype: torch.dtype | None = None) -> Tensor:
        """These values; in `self.dtype` unless another is given."""
        return torch.tensor(values, dtype=dtype or self.dtype, device=self.device)


def op(reference: Callable[P, R]) -> Op[P, R]:
    """Make a function an op and enter it in `REGISTRY` under its name."""
    made = Op(reference)
    assert made.name not in REGISTRY, f"two ops are named {made.name}"
    REGISTRY[made.name] = made
    return made


REGISTRY: dict[str, Op[..., Any]] = {}
_active: dict[str, tuple[str, ...]] = {}
_calls: ContextVar[list[Call] | None] = ContextVar("calls", default=None)


def load(backend: str) -> tuple[str, ...]:
    """Import every file of `kernels/<backend>/`: registers its implementations, activates none.

    Returns the torch device types that the backend runs on. ValueError if there is no such backend.
    """
    available = backends()
    if backend not in available:
        raise ValueError(f"unknown kernel backend {backend!r}; there are: {', '.join(available)}")
    package = importlib.import_module(f"pieria.kernels.{backend}")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    devices: tuple[str, ...] = package.DEVICES
    return devices


def backends() -> list[str]:
    """The names of the folders in `kernels/`."""
    kernels = importlib.import_module("pieria.kernels")
    return sorted(m.name for m in pkgutil.iter_modules(kernels.__path__) if m.ispkg)


def use(*names: str) -> None:
    """Activate these backends for the process, first choice first; none leaves only the references.

    Called by the runner and the harness alone.
    """
    active: dict[str, tuple[str, ...]] = {}
    for name in names:
        for device in load(name):
            active[device] = (*active.get(device, ()), name)
    _active.clear()
    _active.update(active)


def service(device: str, name: str) -> Any:
    """What the first active backend of this device type offers besides ops: a name of its package.

    None: no active backend has it.
    """
    packages = (importlib.import_module(f"pieria.kernels.{b}") for b in _active.get(device, ()))
    return next((getattr(p, name) for p in packages if hasattr(p, name)), None)


@contextmanager
def trace() -> Iterator[list[Call]]:
    """Collect every op call made inside, in order."""
    calls: list[Call] = []
    token = _calls.set(calls)
    try:
        yield calls
    finally:
        _calls.reset(token)


def nbytes(*tensors: Tensor | Weight | None) -> int:
    """Total size in bytes, views counted as if dense."""
    return sum(
        t.nbytes if isinstance(t, Weight) else t.numel() * t.element_size()
        for t in tensors
        if t is not None
    )


def widen(x: Tensor) -> Tensor:
    """In the dtype that ops accumulate in: float64 as it is, anything narrower as float32."""
    return x if x.dtype == torch.float64 else x.float()


def wide_bytes(x: Tensor) -> int:
    """Bytes of one element of `widen(x)`."""
    return 8 if x.dtype == torch.float64 else 4


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """`value` with `function` applied to every tensor in it, also in tuples and dataclasses."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):
        return tuple(map_tensors(function, v) for v in value)
    if isinstance(value, dict):
        return {k: map_tensors(function, v) for k, v in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        changed = {
            f.name: map_tensors(function, getattr(value, f.name)) for f in fields(value) if f.init
        }
        return replace(value, **changed)
    return value


def _device(args: tuple[Any, ...]) -> str:
    for argument in args:
        if isinstance(argument, Tensor):
            return argument.device.type
    raise TypeError("an op call needs at least one positional tensor argument")


def _wants_gradient(values: tuple[Any, ...]) -> bool:
    return torch.is_grad_enabled() and any(
        isinstance(v, Tensor) and v.requires_grad for v in values
    )
