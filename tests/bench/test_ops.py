"""Rates, shares and turns of the op benchmark, on a clock that the calls themselves advance."""

import io
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from pieria import ops
from pieria.bench.ops import SAMPLES, Limits, Row, duration, run, table
from pieria.clock import RealTime
from pieria.ops import Cost, Impl

LIMITS = Limits(1e9, {torch.float32: 1e10, torch.bfloat16: 2e10})


class CountedTime:
    """Stands still but for `spend`."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def wall(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> CountedTime:
    """The linear op takes 4 ms by its reference, and by the torch backend 1, now and then 50."""
    clock = CountedTime()
    reference = ops.linear.reference
    fast = iter([1e-3, 1e-3, 1e-3, 50e-3, 1e-3, 1e-3, 50e-3] * 100)

    def taking(seconds, function):  # type: ignore[no-untyped-def]
        def timed(*args, **kwargs):  # type: ignore[no-untyped-def]
            clock.sleep(seconds if isinstance(seconds, float) else next(seconds))
            return function(*args, **kwargs)

        return timed

    impl = Impl("torch", taking(fast, reference), lambda x, *a, **k: x.dim() == 2, False, False)
    monkeypatch.setattr(ops.linear, "reference", taking(4e-3, reference))
    monkeypatch.setitem(ops.linear.implementations, "torch", [impl])
    return clock


def test_medians_by_backend_and_the_share_of_the_limit(clock: CountedTime) -> None:
    rows = run(["reference", "torch"], "linear/64x96x129", clock, LIMITS)
    assert [(r.op, r.case, r.backend) for r in rows] == [
        ("linear", "64x96x129", "reference"),
        ("linear", "64x96x129", "torch"),
    ]
    assert [r.seconds for r in rows] == [pytest.approx(4e-3), pytest.approx(1e-3)]
    cost = Cost(2 * 64 * 96 * 129, 4 * (64 * 96 + 96 * 129 + 64 * 129))
    assert rows[0].cost == cost
    assert rows[1].flops_per_second == pytest.approx(cost.flops / 1e-3)
    assert rows[1].bytes_per_second == pytest.approx(cost.bytes / 1e-3)
    assert rows[1].share == pytest.approx(max(cost.flops / 1e10, cost.bytes / 1e9) / 1e-3)


def test_a_backend_has_no_row_for_what_it_does_not_take(clock: CountedTime) -> None:
    assert [r.case for r in run(["torch"], "linear/bias", clock, LIMITS)] == ["bias"]
    assert run(["torch"], "linear/3 dimensions", clock, LIMITS) == ()


def test_backends_take_turns(clock: CountedTime, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def noted(name, function):  # type: ignore[no-untyped-def]
        def call(*args):  # type: ignore[no-untyped-def]
            order.append(name)
            return function(*args)

        return call

    kernel = ops.linear.implementations["torch"][0]
    fast = replace(kernel, function=noted("torch", kernel.function))
    monkeypatch.setattr(ops.linear, "reference", noted("reference", ops.linear.reference))
    monkeypatch.setitem(ops.linear.implementations, "torch", [fast])
    run(["reference", "torch"], "linear/bias", clock, LIMITS)
    assert order == ["reference"] * 2 + ["torch"] * 2 + ["reference", "torch"] * SAMPLES


def test_real_cases_run_in_every_dtype_asked_for() -> None:
    console = Console(file=io.StringIO())
    dtypes = (torch.float32, torch.bfloat16)
    rows = run(["reference", "torch"], "*/one", RealTime(), LIMITS, dtypes=dtypes, console=console)
    listed = ops.Inputs(torch.float32, device="meta")
    having = [op for op in ops.REGISTRY.values() if "one" in [c.name for c in op.cases_of(listed)]]
    assert {(r.op, r.dtype) for r in rows if r.backend == "reference"} == {
        (op.name, dtype) for op in having for dtype in dtypes
    }
    assert {"kv_write", "paged_attention"} <= {r.op for r in rows if r.backend == "torch"}
    assert all(r.seconds > 0 for r in rows)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="no case matches 'lineal/"):
        run(["reference"], "lineal/*", RealTime(), LIMITS)
    with pytest.raises(ValueError, match="unknown kernel backend 'warp'"):
        run(["warp"], "*", RealTime(), LIMITS)
    with pytest.raises(ValueError, match=r"'torch' runs on cpu, .*, not on 'meta'"):
        run(["torch"], "*", RealTime(), LIMITS, device="meta")
    with pytest.raises(ValueError, match="no measured peak for torch.float64; measured: torch.fl"):
        run(["reference"], "linear/bias", RealTime(), LIMITS, dtypes=[torch.float64])


def test_the_table_has_every_row() -> None:
    rows = [
        Row("linear", "a", torch.float32, "torch", Cost(2_000_000, 8_000), 1e-3, 5e-4),
        Row("rope", "b", torch.bfloat16, "reference", Cost(0, 4_000), 2e-6, 1e-7),
    ]
    console = Console(file=io.StringIO(), width=100)
    console.print(table(rows))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert [line.split("│")[1:-1] for line in text.splitlines() if "│" in line] == [
        [f" {cell} " for cell in cells]
        for cells in (
            ["linear", "a   ", "float32 ", "torch    ", "1.00 ms", "0.01", "   2.00", "     50%"],
            ["rope  ", "b   ", "bfloat16", "reference", " 2.0 us", "2.00", "   0.00", "      5%"],
        )
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.5, "2.50 s"), (0.0123, "12.30 ms"), (4.56e-6, "4.6 us")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
