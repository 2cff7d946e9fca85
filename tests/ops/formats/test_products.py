"""Every op that multiplies weights, with weights of every format: kernels against the definition,
and a row's bits alone against those in a batch.
"""

import inspect
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gguf
import numpy
import pytest
import torch
from torch import Tensor

from pieria import ops
from pieria.kernels.cpu.panels import pack
from pieria.ops import REGISTRY, Case, Inputs, Weight
from pieria.ops.formats import QUANTIZED, Blocks
from pieria.ops.formats.ggml import PARTS
from tests.ops.harness import Subject, assert_close, check_rows, packed, subjects

OPS = ("linear", "linears", "gated_linear", "embedding", "experts")
FORMATS = (*QUANTIZED, *PARTS)
GRID = [(name, torch.float32) for name in FORMATS] + [
    (name, dtype)
    for name in ("int8", "int4-g64-zp", "fp8-block", "Q4_K", "Q6_K")
    for dtype in (torch.bfloat16, torch.float16)
]
KERNELS = [
    s
    for s in subjects(tuple(ops.backends()))
    if s.op.name in OPS and s.impl.pack not in (None, pack)
]


def blocks(name: str, weight: Tensor, seed: int = 0) -> Weight:
    """Of this shape, of random bytes but for scales that keep products near those of `weight`."""
    kind = gguf.GGMLQuantizationType[name]
    size, count = gguf.GGML_QUANT_SIZES[kind]
    shape = (*weight.shape[:-1], weight.shape[-1] // size)
    raw = numpy.random.default_rng(seed).integers(0, 256, (*shape, count), dtype=numpy.uint8)
    codes = torch.from_numpy(raw)
    format = Blocks(name, size, count)
    for at in HALVES[name]:
        codes[..., at : at + 2] = torch.tensor(
            [0.0001 if size == 256 else 0.01], dtype=torch.float16
        ).view(torch.uint8)
    if name == "MXFP4":
        codes[..., 0] = 120 + codes[..., 0] % 8
    return Weight(format, tuple(weight.shape), weight.dtype, (codes,))


HALVES = {
    **dict.fromkeys(("Q8_0", "Q4_0", "Q5_0", "IQ4_NL", "IQ4_XS"), (0,)),
    **dict.fromkeys(("Q4_1", "Q5_1", "Q4_K", "Q5_K"), (0, 2)),
    **{"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "MXFP4": ()},
}
"""Where a block's float16 numbers are."""


def held(name: str, weight: Tensor) -> Weight:
    return QUANTIZED[name].quantize(weight) if name in QUANTIZED else blocks(name, weight)


def cases(name: str, op: str, make: Inputs) -> Iterator[Case]:
    """Of sizes that every format divides, and of those that only some do."""
    size = 512 if name.endswith(("_K", "XS")) else 128 if "128" in name else 64
    odd = 75 if name in ("int8", "fp8", "fp8-e5m2") else size
    for rows, inputs, outputs in ((1, size, 40), (37, 3 * size, 70), (5, odd, 33)):
        x, scale = make.normal(rows, inputs), inputs**-0.5
        if op == "experts":
            yield experts(make, rows, max(inputs // 256 * 256, size), size)
            continue
        if op == "embedding":
            tokens = make.integers(0, outputs + 3, rows)
            weights = [make.normal(outputs, inputs)]
            arguments: tuple[Any, ...] = (tokens, *weights, 1, 2.5)
        else:
            weights = [make.normal(n, inputs, scale=scale) for n in (outputs, 8)]
            if op == "gated_linear":
                weights[1] = make.normal(outputs, inputs, scale=scale)
            bias = make.normal(outputs)
            arguments = {
                "linear": (x, weights[0], bias),
                "linears": (x, tuple(weights), (None, make.normal(8))),
                "gated_linear": (x, *weights, bias, make.normal(outputs)),
            }[op]
        yield Case(f"{rows}x{inputs}x{outputs}", arguments, {}, inputs)


def experts(make: Inputs, tokens: int, outside: int, inside: int) -> Case:
    count, top = 5, 3
    chosen = torch.stack([make.permutation(count)[:top] for _ in range(tokens)])
    weights = make.normal(tokens, top).float().softmax(-1)
    into, out = (count, inside, outside), (count, outside, inside)
    matrices = [make.normal(*s, scale=s[-1] ** -0.5) for s in (into, into, out)]
    arguments = (make.normal(tokens, outside), weights, chosen, *matrices)
    return Case(f"{tokens}x{outside}x{inside}", arguments, {"activation": "silu"}, outside)


def quantized(subject: Subject, case: Case, name: str) -> Case:
    """The case with its weights in a format."""
    bound = inspect.signature(subject.op.reference).bind(*case.arguments, **case.keywords)
    for weight in subject.op.weights:
        value = bound.arguments[weight]
        several = isinstance(value, tuple)
        made = tuple(held(name, v) for v in (value if several else (value,)))
        bound.arguments[weight] = made if several else made[0]
    return replace(case, arguments=bound.args, keywords=bound.kwargs)


def wide(value: Any) -> Any:
    """In float64, weights as they are."""
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, tuple):
        return tuple(wide(v) for v in value)
    return replace(value, dtype=torch.float64) if isinstance(value, Weight) else value


@pytest.mark.parametrize(("name", "dtype"), GRID, ids=str)
@pytest.mark.parametrize("subject", KERNELS, ids=str)
def test_kernels(subject: Subject, name: str, dtype: torch.dtype) -> None:
    for case in cases(name, subject.op.name, Inputs(dtype)):
        given = quantized(subject, case, name)
        called = packed(subject, given)
        assert subject.impl.supports(*called.arguments, **called.keywords), case.name
        got = subject.impl.function(*called.arguments, **called.keywords)
        want = subject.op.reference(*map(wide, given.arguments), **given.keywords)
        several = isinstance(got, tuple)
        for one, expected in zip(
            got if several else (got,), want if several else (want,), strict=True
        ):
            if subject.op.name == "experts":  # what is inside is rounded, and may be so otherwise
                error = (one.double() - expected).norm() / expected.norm()
                assert error < (0.03 if dtype != torch.float32 else 1e-3), case.name
            else:
                assert_close(case.name, one, expected, case.reduction)
        check_rows(subject, called, exact=True)


@pytest.mark.parametrize("activation", ["gelu", "clamped"])
@pytest.mark.parametrize(
    "names", [("Q4_K", "Q4_K", "Q6_K"), ("int8", "Q8_0", None), (None, "fp8", "int4-g64-zp")]
)
def test_experts_of_several_formats(names: tuple[str | None, ...], activation: str) -> None:
    """With biases, and some of the experts elsewhere."""
    [subject] = [s for s in KERNELS if s.op.name == "experts"]
    make = Inputs(torch.float32)
    case = experts(make, 150, 256, 256)
    x, weights, chosen, *stacks = case.arguments
    few = [s if n is None else held(n, s) for s, n in zip(stacks, names, strict=True)]
    biases = [make.normal(*s.shape[:2]) for s in stacks]
    options = {"activation": activation, "limit": 0.7, "slope": 1.7, "first": 2, "total": 8}
    given = Case("", (x, weights, chosen + 1, *few, *biases), options, 256)
    called = packed(subject, given)
    got = subject.impl.function(*called.arguments, **called.keywords)
    want = subject.op.reference(*map(wide, given.arguments), **given.keywords)
    assert (got.double() - want).norm() < 1e-3 * want.norm()
    check_rows(subject, called, exact=True)


@pytest.mark.parametrize("name", FORMATS)
def test_panels_hold_what_was_packed(name: str) -> None:
    for shape in ((40, 512), (3, 33, 256)):
        weight = held(name, Inputs(torch.float32).normal(*shape))
        [op] = [s for s in KERNELS if s.op.name == "linear"]
        assert op.impl.pack is not None
        panels = op.impl.pack(weight)
        assert panels is not None
        assert torch.allclose(ops.dense(panels), ops.dense(weight), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["int8", "int4-g32", "fp8", "Q4_K"])
@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_what_is_not_finite_is_seen(name: str, bad: float) -> None:
    """A row that has it gives no number, and others give what they gave."""
    [subject] = [s for s in KERNELS if s.op.name == "linear"]
    make = Inputs(torch.float32)
    x, weight = make.normal(3, 256), held(name, make.normal(40, 256))
    case = packed(subject, Case("", (x, weight)))
    before = subject.impl.function(*case.arguments)
    x[1, 200] = bad
    after = subject.impl.function(*case.arguments)
    assert not after[1].isfinite().any()
    assert torch.equal(after[::2], before[::2])


def test_registered() -> None:
    assert set(OPS) <= set(REGISTRY)
    assert {s.op.name for s in KERNELS} == set(OPS)
