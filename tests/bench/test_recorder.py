"""Where operands come from when a call is timed, on a clock that counts what was read."""

from collections.abc import Iterator
from itertools import count

import pytest
import torch

from pieria import ops
from pieria.bench import recorder
from pieria.bench.record_ops import moved, products
from pieria.bench.recorder import LEAST_CALLS, SAMPLES, TURNS_BYTES, Recorder
from pieria.hardware import devices
from pieria.hardware.spec import DeviceSpec, Quantity

LIMITS = DeviceSpec(
    "a processor",
    "nobody",
    Quantity(1e9, "B", "test"),
    frozenset({"float32"}),
    cache=Quantity(1 << 20, "B", "test"),
)


class Ticks:
    """Each look at it is a second later."""

    def __init__(self) -> None:
        self._seconds = count()

    def now(self) -> float:
        return float(next(self._seconds))

    def wall(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing sleeps")


@pytest.fixture(autouse=True)
def kernels() -> Iterator[None]:
    before = dict(ops.op._active)
    ops.use(*devices.find("cpu").backends)
    yield
    ops.op._active.update(before)


def test_caches_are_emptied_before_operands_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    emptied, asked = [], []
    monkeypatch.setattr(Recorder, "_flush", lambda self, size: emptied.append((size, len(asked))))
    clock = Ticks()
    made = Recorder(clock, "float32", LIMITS)
    x = torch.ones(4)

    def call(i: int) -> torch.Tensor:
        asked.append(i)
        clock.now()
        return x + i

    calls = LEAST_CALLS
    took = made.took(call, turns=calls * SAMPLES, flops=1.0)
    # A clock that moves on by one each time it is looked at, less what nothing takes.
    assert took.memory == took.cache == calls / calls
    # Prepared, then far, then near: so many calls a sample, no operand twice.
    each = list(range(calls * SAMPLES))
    assert asked == [*each, *each, *each]
    assert emptied == [(2 << 20, len(each))]
    emptied.clear()
    made.took(call, turns=1, flops=1.0)
    assert len(emptied) == SAMPLES
    # A sample has several calls even where not every sample can have operands of its own.
    asked.clear()
    made.took(call, turns=calls + 1, flops=1.0)
    assert asked == list(range(calls)) * (1 + 2 * SAMPLES)


def test_turns_are_more_than_inner_caches_hold() -> None:
    made = Recorder(Ticks(), "float32", LIMITS)
    assert made.turns(TURNS_BYTES) == made.turns(10 * TURNS_BYTES) == 1
    assert made.turns(TURNS_BYTES // 8) == 8


def test_what_is_read_again_is_as_much_as_is_said() -> None:
    found = Recorder(Ticks(), "float32", LIMITS).reread()
    assert found.bytes[-1] == 2 << 20
    assert found.rates == found.bytes


def test_parts_of_a_record_have_a_number_for_each_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ROWS", (1, 2)), ("OUTER", (64,)), ("INNER", (64, 96))):
        monkeypatch.setattr(f"pieria.bench.record_ops.{name}", value)
    monkeypatch.setattr("pieria.bench.record_ops.MOVED_TOKENS", (1, 2))
    monkeypatch.setattr(recorder, "TURNS_BYTES", 1 << 16)
    made = Recorder(Ticks(), "bfloat16", LIMITS)
    found = list(products(made))
    assert [(p.op, p.dtype) for p in found] == [
        ("linear", "bfloat16"),
        ("gated_linear", "bfloat16"),
        ("linear", "float32"),
    ]
    for part in found:
        assert all(
            seconds is not None and seconds > 0
            for grid in (part.seconds, part.cached)
            for plane in grid
            for row in plane
            for seconds in row
        )
        assert len(part.seconds) == 2
    sizes = {m.op: m.bytes for m in moved(made)}
    assert sizes["add"] == (3 * 2 * 768, 2 * 3 * 2 * 768)
    assert sizes["sample"] == (2 * 32000 + 8, 2 * (2 * 32000 + 8))
