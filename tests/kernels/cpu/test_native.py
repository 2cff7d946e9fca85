"""Which library is used, and the threads that kernels share."""

import threading

import pytest
import torch

from pieria.kernels.cpu import native
from pieria.kernels.cpu.linear import linear
from pieria.kernels.cpu.panels import pack
from pieria.ops import dense


def test_an_unknown_instruction_set_is_refused() -> None:
    with pytest.raises(ValueError, match="no kernels for the instruction set 'sse9'; there are: "):
        native.use("sse9")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1, 1), (33, 7), (64, 64), (5, 40, 33)])
def test_what_is_packed_can_be_had_back(
    isa: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    weight = torch.randn(shape).to(dtype)
    packed = pack(weight)
    assert packed is not None
    assert torch.equal(dense(packed), weight)
    assert packed.nbytes >= weight.numel() * weight.element_size()


def test_views_are_packed_as_they_are_seen() -> None:
    weight = torch.randn(12, 40)[:, 3:17]
    packed, turned = pack(weight), pack(weight.T)
    assert packed is not None and turned is not None
    assert torch.equal(dense(packed), weight)
    assert torch.equal(dense(turned), weight.T)


def test_float64_is_left_to_the_reference() -> None:
    assert pack(torch.randn(4, 4, dtype=torch.float64)) is None


def test_any_number_of_threads_gives_the_same_bits() -> None:
    x, weight = torch.randn(50, 70), pack(torch.randn(1000, 70))
    assert weight is not None
    try:
        found = []
        for threads in (1, 2, 3, 8):
            native.use_threads(threads)
            found += [linear(x, weight) for _ in range(20)]
        assert all(torch.equal(found[0], other) for other in found)
    finally:
        native.use_threads(1)


def test_several_callers_at_once() -> None:
    """One has the threads, the others work alone, and none gets another's numbers."""
    weight = pack(torch.randn(300, 64))
    assert weight is not None
    inputs = [torch.randn(40, 64) for _ in range(4)]
    wanted = [linear(x, weight) for x in inputs]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(200):
            if not torch.equal(linear(inputs[i], weight), wanted[i]):
                wrong.append(i)

    try:
        native.use_threads(3)
        callers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    finally:
        native.use_threads(1)
    assert not wrong
